"""Everything between a matrix and its answer, under seeded faults, on a simulated clock.

The real controller, ledger, host's side of `sync` and spool; hosts, runners, network, Ray and people are simulated.
The invariants of DESIGN §12 are checked after every step.

Replay one seed:  HILLCLIMB_SIM_SEED=17 python -m pytest tests/simulation -k every_rule
The long run:     python -m tests.simulation.many 0 1000
Without a rule:   python -m tests.simulation.table
"""

import os
from collections import Counter

import pytest

from tests.simulation.schedule import FAULTS
from tests.simulation.seeds import simulate

pytestmark = pytest.mark.slow

SEEDS = 60
# So many tests that two workers share the work evenly.
SHARES = 2


def seeds(share: int) -> range:
    """A share's, or the one that was asked for."""
    if chosen := os.environ.get("HILLCLIMB_SIM_SEED"):
        return range(int(chosen), int(chosen) + (share == 0))
    return range(share, SEEDS, SHARES)


@pytest.mark.parametrize("share", range(SHARES))
def test_simulation_with_every_rule_keeps_the_invariants(share: int) -> None:
    fired: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for seed in seeds(share):
        world = simulate(seed)
        fired += world.fired
        spent += world.tally
    if "HILLCLIMB_SIM_SEED" not in os.environ:
        # the faults fired, and work was done in spite of them
        assert not [kind for kind in FAULTS if fired[kind] == 0]
        assert min(fired[kind] for kind in ("killed at an effect", "slow effect", "torn line")) > 0
        assert min(spent[state] for state in ("finished", "failed", "lost", "code placed")) > 0


def test_simulation_of_one_seed_tells_the_same_story_again() -> None:
    once, again = simulate(3), simulate(3)
    assert once.log == again.log
    assert (once.steps, once.tally) == (again.steps, again.tally)
