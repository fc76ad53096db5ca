"""A host whose raylet is killed while SSH answers gets another, whose actor tells what became of the visit."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.trial import ENDS_S, Trial
from tests.processes import is_gone, wait_until
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]


@pytest.mark.soak
@pytest.mark.parametrize("host", ["one", "two"])
def test_raylet_killed_under_a_visit_is_started_again_and_the_visit_repeated(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record, host: str
) -> None:
    one = trial(groups=2, blocks=3, sleep_s=1.0)
    driver = one.start()
    visit = one.until_a_runner_measures(host).visit
    (raylet,) = [found.pid for found in bed[host].processes("raylet/raylet ") if _is_of_a_host(found.argv)]
    os.kill(raylet, signal.SIGKILL)
    since = time.monotonic()
    wait_until(lambda: is_gone(raylet), what="the end of the raylet")
    one.until("SELECT 1 FROM visit WHERE id = ? AND state IN ('lost', 'failed')", visit)
    record_property("noticed_after_s", round(time.monotonic() - since, 2))
    one.until("SELECT 1 FROM event WHERE event = 'runner_began' AND host = ? AND visit > ?", host, visit)
    record_property("at_work_again_after_s", round(time.monotonic() - since, 2))
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    ended = {number: state for number, _, state, _ in one.visits()}
    assert ended.pop(visit) == "failed"
    assert set(ended.values()) == {"finished"}


def _is_of_a_host(argv: tuple[str, ...]) -> bool:
    return "hillclimb-host" in " ".join(argv)


@pytest.mark.soak
def test_head_killed_under_visits_is_started_again_and_each_block_is_measured(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    """With Ray's head all raylets are of no use any more, nor what runs under them."""
    one = trial(groups=2, blocks=3, sleep_s=1.0)
    driver = one.start()
    visits = [one.until_a_runner_measures(host).visit for host in ("one", "two")]
    (head,) = [found.pid for found in bed["one"].processes("gcs_server")]
    os.kill(head, signal.SIGKILL)
    since = time.monotonic()
    for host in ("one", "two"):
        one.until("SELECT 1 FROM event WHERE event = 'runner_began' AND host = ? AND visit > ?", host, max(visits))
        record_property(f"{host}_at_work_again_after_s", round(time.monotonic() - since, 2))
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert {state for number, _, state, _ in one.visits() if number > max(visits)} == {"finished"}
