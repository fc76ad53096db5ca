"""The controller is killed and comes back: the visits it left go on, are accepted and are not repeated."""

import time
from collections.abc import Callable

import pytest

from tests.faults.trial import Trial
from tests.processes import last_until, wait_until
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("visit_s", "gone_s"),
    [
        # gone for longer than its visits last
        (4.0, 10.0),
        pytest.param(120.0, 60.0, marks=pytest.mark.soak),
        pytest.param(40.0, 90.0, marks=pytest.mark.soak),
    ],
)
def test_controller_killed_and_started_again_accepts_the_visits_that_it_left(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record, visit_s: float, gone_s: float
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=visit_s / 4)
    first = one.start()
    left = [one.until_a_runner_measures(host) for host in ("one", "two")]
    one.kill(first)
    since = time.monotonic()
    if visit_s < gone_s:
        wait_until(lambda: one.runners() == [], 2 * visit_s + 60, "the end of the visits that nobody hears")
    last_until(since + gone_s)
    if visit_s > gone_s:
        assert {runner.pid for runner in one.runners()} == {runner.pid for runner in left}
    back = time.monotonic()
    second = one.start()
    one.until("SELECT 1 FROM event WHERE event = 'run_ended' AND at_ns NOTNULL")
    record_property("heard_after_start_s", round(time.monotonic() - back, 2))
    assert second.wait(300) == 0, one.said
    one.assert_complete()
    assert [(number, state) for number, _, state, _ in one.visits()] == [(1, "finished"), (2, "finished")]
    assert one.rows("SELECT epoch, ended_epoch FROM visit") == [(1, 2), (1, 2)]
    # the first one's relay did not stay behind
    wait_until(lambda: not bed["one"].processes("orchestrator.relay"), 120, "the end of the relays")
