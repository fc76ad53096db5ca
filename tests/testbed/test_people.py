"""Two people on one pool, in one Ray and in two: the second waits, is told for whom, and goes on when it is free."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.trial import ENDS_S, Trial
from tests.processes import wait_until
from tests.testbed.accounts import ANN, BOB
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

# Nobody waits for such a visit to end.
LONG_S = 600.0

Record = Callable[[str, object], None]


@pytest.fixture
def shared(bed: Testbed) -> Iterator[Testbed]:
    """Ann's account is Bob's, too."""
    for machine in bed.machines.values():
        machine.authorize(ANN, bed.bob.public_key)
    yield bed
    for machine in bed.machines.values():
        machine.deauthorize(ANN, bed.bob.public_key)


def until_told(second: Trial, first_pid: int) -> None:
    def told() -> bool:
        said = " ".join(second.said.split())
        return "held by ann" in said and f":{first_pid})" in said

    wait_until(told, 120, "who holds the hosts")


def second_waits_for_the_first(first: Trial, second: Trial, record_property: Record) -> None:
    running = first.start()
    for host in ("one", "two"):
        first.until_a_runner_measures(host)
    waiting = second.start()
    until_told(second, running.pid)
    assert second.visits() == []
    assert first.say("cancel", "trial").returncode == 0
    assert running.wait(ENDS_S) == 0, first.said
    released = time.monotonic()
    second.until("SELECT 1 FROM event WHERE event = 'runner_began'")
    record_property("taken_after_release_s", round(time.monotonic() - released, 2))
    assert waiting.wait(ENDS_S) == 0, second.said
    second.assert_complete()
    for host in ("one", "two"):
        (ended,) = first.rows("SELECT max(at_ns) FROM event WHERE event = 'visit_ended' AND host = ?", host)
        (began,) = second.rows("SELECT min(at_ns) FROM event WHERE event = 'visit_began' AND host = ?", host)
        assert began == (None,) or began > ended


def test_second_person_in_the_same_ray_waits_and_is_told_for_whom(
    shared: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    first = trial(groups=2, blocks=1, sleep_s=LONG_S)
    second = trial(person=shared.bob, groups=2, blocks=1, sleep_s=0.1)
    second_waits_for_the_first(first, second, record_property)


@pytest.mark.soak
def test_second_person_with_an_account_and_a_ray_of_their_own_waits_and_is_told_for_whom(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    first = trial(groups=2, blocks=1, sleep_s=LONG_S)
    second = trial(bed.pool_file("bob", account=BOB), person=bed.bob, groups=2, blocks=1, sleep_s=0.1)
    try:
        second_waits_for_the_first(first, second, record_property)
    finally:
        assert bed.bob.says("pool", "down", "--pool", str(second.pool)).returncode == 0
