"""Slow and lossy links: between the hosts and to the controller, everything takes longer and nothing is repeated."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.trial import Trial
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

# Farther than the other side of the world, through a poor wireless network.
DELAY_S = 0.2
LOSS = 0.03


@pytest.fixture
def calm(bed: Testbed) -> Iterator[Testbed]:
    yield bed
    bed.calm()
    bed["two"].calm()


@pytest.mark.parametrize("where", ["the controller's link", "a host's link"])
def test_slow_and_lossy_link_costs_no_visit(calm: Testbed, trial: Callable[..., Trial], where: str) -> None:
    one = trial(groups=2, blocks=3, sleep_s=0.5)
    slow = calm if where == "the controller's link" else calm["two"]
    before = calm["one"].retransmitted, calm["two"].retransmitted
    slow.slow(DELAY_S, LOSS)
    assert one.finish() == 0, one.said
    assert (calm["one"].retransmitted, calm["two"].retransmitted) > before
    one.assert_complete()
    assert {state for _, _, state, _ in one.visits()} == {"finished"}
    assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
