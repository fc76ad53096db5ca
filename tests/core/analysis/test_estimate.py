import math
import random
from statistics import fmean, median, stdev

import pytest
from scipy import stats

from core.analysis.estimate import HOPELESS, Estimate, blocks_to_settle, estimate

# The noise that ../shared/notes/statistics.md simulated: of an iteration, of a process, of the drift between visits.
ITERATION, PROCESS, DRIFT = 0.0015, 0.0020, 0.0040


def _block(rng: random.Random, effect: float, iters: int = 3) -> float:
    """One paired log-ratio of that noise model."""
    drift = rng.gauss(0, DRIFT)
    reference, arm = (
        median(math.exp(drift + process + rng.gauss(0, ITERATION)) for _ in range(iters))
        for process in (rng.gauss(0, PROCESS), rng.gauss(0, PROCESS))
    )
    return math.log(reference) - math.log(arm * math.exp(-effect))


@pytest.mark.parametrize("blocks", [3, 4, 6, 8])
def test_interval_simulated_noise_covers_the_truth_in_95_of_100(blocks: int) -> None:
    rng, effect, covered, trials = random.Random(blocks), 0.01, 0, 4000
    for _ in range(trials):
        found = estimate([_block(rng, effect) for _ in range(blocks)])
        assert found is not None and found.interval is not None
        covered += found.interval[0] <= effect <= found.interval[1]
    # three standard errors of a proportion of .95 in 4000 trials are .0103
    assert covered / trials == pytest.approx(0.95, abs=0.0103)


@pytest.mark.parametrize("blocks", [3, 4, 9])
def test_estimate_enough_blocks_equals_scipys_t_interval(blocks: int) -> None:
    rng = random.Random(blocks)
    d = [rng.gauss(0.02, 0.01) for _ in range(blocks)]
    found = estimate(d, pair_sd=99.0)
    assert found is not None and found.interval is not None
    expected = stats.t.interval(0.95, blocks - 1, loc=fmean(d), scale=stdev(d) / math.sqrt(blocks))
    assert found.interval == pytest.approx(expected, rel=1e-9)
    assert found.p_beyond(0.0) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-6)


def test_estimate_two_blocks_borrows_a_normal_interval() -> None:
    found = estimate([0.10, 0.14], pair_sd=0.02)
    assert found is not None and found.borrowed
    assert found.interval == pytest.approx(stats.norm.interval(0.95, 0.12, 0.02 / math.sqrt(2)))


def test_estimate_two_blocks_and_nothing_to_borrow_has_no_interval() -> None:
    found = estimate([0.10, 0.14])
    assert found is not None
    assert (found.interval, found.p_beyond(0.01)) == (None, 1.0)


def test_estimate_without_blocks_is_none() -> None:
    assert estimate([], pair_sd=0.1) is None


@pytest.mark.parametrize("seed", range(200))
def test_p_beyond_any_sample_agrees_with_the_interval(seed: int) -> None:
    rng = random.Random(seed)
    band = 0.005
    center, sd = rng.choice([-0.02, 0.0, 0.01, 0.03]), rng.choice([0.001, 0.005, 0.02])
    found = estimate([rng.gauss(center, sd) for _ in range(rng.randint(3, 7))])
    assert found is not None and found.interval is not None
    low, high = found.interval
    assert (found.p_beyond(band) < 0.05) == (low > band or high < -band)


def test_p_beyond_without_scatter_is_certain() -> None:
    found = Estimate(0.1, 4, 0.0, borrowed=False)
    assert (found.p_beyond(0.05), found.p_beyond(0.2)) == (0.0, 1.0)


def test_blocks_to_settle_is_the_first_count_whose_interval_is_on_one_side() -> None:
    e, band = Estimate(0.010, 4, 0.006, borrowed=False), 0.005
    needed = blocks_to_settle(e, band)
    assert needed is not None and needed > 4
    half = {k: e._replace(blocks=k).half_width for k in (needed - 1, needed)}
    assert half[needed] < e.mean - band <= half[needed - 1]


def test_blocks_to_settle_on_the_edge_of_the_band_is_hopeless() -> None:
    assert blocks_to_settle(Estimate(0.005, 4, 0.006, borrowed=False), 0.005) is None
    assert blocks_to_settle(Estimate(0.0051, 4, 0.1, borrowed=False), 0.005) is None
    assert HOPELESS == 1000


def test_blocks_to_settle_without_a_scatter_asks_for_enough_to_see_one() -> None:
    assert blocks_to_settle(Estimate(0.1, 1, None, borrowed=False), 0.005) == 3
