import math
import random

import pytest

from core.analysis.variance import components


def _ledger(seed: int, process: float, iteration: float, n: int = 5) -> tuple[list[list[float]], list[list[int]]]:
    rng = random.Random(seed)
    comparisons, runs = [], []
    for _ in range(400):
        pairs = []
        for _ in range(4):
            both = []
            for _ in range(2):
                shift = rng.gauss(0, process)
                run = [round(1e9 * math.exp(shift + rng.gauss(0, iteration))) for _ in range(n)]
                runs.append(run)
                both.append(sum(math.log(ns) for ns in run) / n)
            pairs.append(both[0] - both[1])
        comparisons.append(pairs)
    return comparisons, runs


def test_components_simulated_noise_is_found_again() -> None:
    found = components(*_ledger(1, process=0.002, iteration=0.0015))
    assert found is not None
    assert math.sqrt(found.iteration) == pytest.approx(0.0015, rel=0.05)
    assert math.sqrt(found.process) == pytest.approx(0.002, rel=0.1)
    assert found.pair_sd(5) == pytest.approx(math.sqrt(2 * (0.002**2 + 0.0015**2 / 5)), rel=0.05)


def test_components_more_iterations_scatter_less() -> None:
    found = components(*_ledger(2, process=0.001, iteration=0.01))
    assert found is not None
    assert found.pair_sd(100) < found.pair_sd(1)


def test_components_too_few_comparisons_is_none() -> None:
    assert components([[0.1, 0.2, 0.1]] * 4, [[1, 2, 3]]) is None
    assert components([[0.1, 0.2, 0.1]] * 5, [[10, 12, 13]]) is not None
    assert components([[0.1]] * 50, [[10, 12, 13]]) is None
