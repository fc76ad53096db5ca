from types import SimpleNamespace
from typing import Any

import pytest

from core.analysis.confidence import Level, confidence


def _pairs(*blocks: tuple[str, str, float]) -> list[Any]:
    return [SimpleNamespace(visit=SimpleNamespace(host=h, sitting=s), log_ratio=d) for h, s, d in blocks]


ONE, TWO = ("h1", "s1", 0.1), ("h1", "s2", 0.1)


@pytest.mark.parametrize(
    ("pairs", "seeds", "level", "why"),
    [
        (_pairs(), 0, Level.EXPLORATORY, "0 blocks"),
        (_pairs(ONE), 2, Level.EXPLORATORY, "1 block"),
        (_pairs(ONE, TWO), 2, Level.EXPLORATORY, "2 blocks"),
        (_pairs(ONE, ONE, ONE), 2, Level.EXPLORATORY, "one sitting"),
        (_pairs(ONE, ONE, ("h2", "s2", -0.1)), 2, Level.EXPLORATORY, "its sittings disagree on the sign"),
        (_pairs(ONE, ONE, TWO), 1, Level.REPLICATED, "one host, one seed"),
        (_pairs(ONE, ONE, TWO), 2, Level.REPLICATED, "one host"),
        (_pairs(ONE, ONE, ("h2", "s2", 0.1)), 1, Level.REPLICATED, "one seed"),
        (_pairs(ONE, ONE, ("h2", "s2", 0.1)), 2, Level.STABLE, ""),
    ],
)
def test_confidence_by_blocks_sittings_hosts_and_seeds(pairs: list[Any], seeds: int, level: Level, why: str) -> None:
    assert confidence(pairs, seeds) == (level, why)
