import random

import pytest
from scipy import stats

from core.analysis.multiplicity import survivors

# Benjamini & Hochberg 1995, section 3.2: of these fifteen at q = 0.05, the first four are rejected.
PAPER = [
    0.0001,
    0.0004,
    0.0019,
    0.0095,
    0.0201,
    0.0278,
    0.0298,
    0.0344,
    0.0459,
    0.3240,
    0.4262,
    0.5719,
    0.6528,
    0.7590,
    1.0,
]


def test_survivors_example_of_the_paper_first_four() -> None:
    assert survivors(PAPER, 0.05) == [True] * 4 + [False] * 11


def test_survivors_order_of_the_input_does_not_matter() -> None:
    shuffled = PAPER[:]
    random.Random(3).shuffle(shuffled)
    assert {p for p, kept in zip(shuffled, survivors(shuffled, 0.05), strict=True) if kept} == set(PAPER[:4])


def test_survivors_a_later_rank_that_passes_takes_the_earlier_ones_with_it() -> None:
    assert survivors([0.03, 0.04], 0.05) == [True, True]
    assert survivors([0.03, 0.06], 0.05) == [False, False]


@pytest.mark.parametrize("seed", range(20))
def test_survivors_random_p_values_equal_scipy(seed: int) -> None:
    rng = random.Random(seed)
    p = [rng.random() ** 3 for _ in range(rng.randint(1, 40))]
    assert survivors(p, 0.05) == [bool(a <= 0.05) for a in stats.false_discovery_control(p)]


def test_survivors_of_nothing_is_nothing() -> None:
    assert survivors([], 0.05) == []
