"""How far a verdict can be trusted to hold elsewhere: derived from the runs, never typed in."""

from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from statistics import fmean
from typing import NamedTuple

from core.analysis.estimate import ENOUGH
from core.analysis.pairs import Pair


class Level(StrEnum):
    EXPLORATORY = "exploratory"
    REPLICATED = "replicated"
    STABLE = "stable"


class Confidence(NamedTuple):
    """`why` it is no higher; empty for stable."""

    level: Level
    why: str


def confidence(pairs: Sequence[Pair], seeds: int) -> Confidence:
    """Of one comparison. `seeds`: how many seeds of it agree on the sign.

    replicated: at least 3 blocks over at least 2 sittings, the same sign in each. stable: and at least 2 hosts and 2
    seeds.
    """
    sittings: dict[tuple[str, str | None], list[float]] = defaultdict(list)
    for pair in pairs:
        sittings[pair.visit.host, pair.visit.sitting].append(pair.log_ratio)
    if len(pairs) < ENOUGH:
        return Confidence(Level.EXPLORATORY, f"{_count(len(pairs), 'block')}")
    if len(sittings) < 2:
        return Confidence(Level.EXPLORATORY, "one sitting")
    if len({fmean(ratios) > 0 for ratios in sittings.values()}) > 1:
        return Confidence(Level.EXPLORATORY, "its sittings disagree on the sign")
    hosts = {pair.visit.host for pair in pairs}
    lacking = [word for word, count in (("one host", len(hosts)), ("one seed", seeds)) if count < 2]
    return Confidence(Level.REPLICATED, ", ".join(lacking)) if lacking else Confidence(Level.STABLE, "")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
