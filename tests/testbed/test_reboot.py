"""A host is rebooted under its visit: what ran there is gone, its block is measured again, the host is used again."""

import time
from collections.abc import Callable

import pytest

from tests.faults.trial import ENDS_S, Trial
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Record = Callable[[str, object], None]


@pytest.mark.parametrize("host", ["two", pytest.param("one", marks=pytest.mark.soak)])
def test_host_rebooted_under_a_visit_is_brought_up_again_and_loses_that_visit_only(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record, host: str
) -> None:
    """`one` has Ray's head, too: with it every visit is lost."""
    # enough of them to be at work when the host is back
    one = trial(groups=2, blocks=8, sleep_s=1.0)
    driver = one.start()
    visit = one.until_a_runner_measures(host).visit
    (began,) = [event for event in one.events("runner_began") if event["visit"] == visit]
    bed[host].reboot()
    since = time.monotonic()
    assert not bed[host].lives(began["pid"], began["start_time"])
    one.until("SELECT 1 FROM visit WHERE id = ? AND state IN ('lost', 'failed', 'superseded')", visit)
    record_property("lost_after_s", round(time.monotonic() - since, 2))
    one.until("SELECT 1 FROM event WHERE event = 'runner_began' AND host = ? AND visit > ?", host, visit)
    record_property("at_work_after_reboot_s", round(time.monotonic() - since, 2))
    assert driver.wait(2 * ENDS_S) == 0, one.said
    one.assert_complete()
    ended = {number: (where, state) for number, where, state, _ in one.visits()}
    where, state = ended.pop(visit)
    assert (where, state in {"lost", "failed", "superseded"}) == (host, True)
    if host == "two":
        assert {state for _, state in ended.values()} == {"finished"}
