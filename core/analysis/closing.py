"""The closing sentences of an experiment: what its comparisons say together.

Ratios are put together by their geometric mean; rates are never averaged. A trend is said only where it is monotone in
every slice and its two ends are apart by more than their intervals.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from core.analysis.compare import Comparison
from core.analysis.estimate import Estimate
from core.analysis.verdict import Verdict
from core.analysis.wording import times

# Up to this many ratios are written out.
_LISTED = 8


class _Point(NamedTuple):
    where: dict[str, Any]
    estimate: Estimate
    verdict: Verdict


def closing(comparisons: Sequence[Comparison]) -> list[str]:
    """One sentence for every contrast that was measured in more than one cell."""
    contrasts: dict[str, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        contrasts[_contrast(c)].append(c)
    return [s for contrast, members in contrasts.items() if (s := _sentence(contrast, members))]


def number(value: Any) -> float | None:
    """The number a coordinate stands for, or None when it is a name."""
    try:
        parsed = float(str(value))
    except ValueError:
        return None
    return parsed if math.isfinite(parsed) else None


def _contrast(c: Comparison) -> str:
    parts = []
    for axis in c.tested:
        arm, reference = c.cell.coordinates[axis], c.reference.coordinates.get(axis)
        swept = number(arm) is not None and number(reference) is not None
        parts.append(f"{axis} against {reference}" if swept else f"{axis} {arm} against {reference}")
    return ", ".join(parts)


def _sentence(contrast: str, members: Sequence[Comparison]) -> str:
    usable = [c for c in members if c.estimate and c.verdict not in (Verdict.NO_OP, Verdict.NOT_COMPARABLE)]
    points = [_Point(dict(c.cell.coordinates), c.estimate, c.verdict) for c in usable if c.estimate]
    if len(points) < 2:
        return ""
    axes = [a for a in points[0].where if len({str(p.where.get(a)) for p in points}) > 1]
    swept = any(axis in c.tested for c in usable for axis in axes)
    parts = [f"{contrast}: {_tally(points, len(members))}", _listed(points, axes)]
    if not swept:
        parts.append(f"geometric mean x{times(fmean(p.estimate.mean for p in points))}")
    parts += [trend for axis in axes if (trend := _trend(points, axis, axes))]
    return "; ".join(parts)


def _tally(points: Sequence[_Point], members: int) -> str:
    counts = Counter(p.verdict for p in points)
    told = ", ".join(f"{verdict} in {count}" for verdict, count in counts.most_common())
    return f"{told} of {members} cells"


def _listed(points: Sequence[_Point], axes: Sequence[str]) -> str:
    if len(axes) == 1 and len(points) <= _LISTED:
        ordered = sorted(points, key=lambda p: number(p.where[axes[0]]) or 0.0)
        ratios = ", ".join(f"x{times(p.estimate.mean)}" for p in ordered)
        return f"{ratios} at {axes[0]} {', '.join(str(p.where[axes[0]]) for p in ordered)}"
    means = [p.estimate.mean for p in points]
    return f"x{times(min(means))} to x{times(max(means))} over {', '.join(axes)}"


def _trend(points: Sequence[_Point], axis: str, axes: Sequence[str]) -> str:
    """ "the gap grows with experts", or nothing."""
    if any(number(p.where[axis]) is None for p in points):
        return ""
    slices: dict[str, list[_Point]] = defaultdict(list)
    for p in points:
        slices[str([p.where.get(a) for a in axes if a != axis])].append(p)
    directions = {_direction(sorted(s, key=lambda p: number(p.where[axis]) or 0.0)) for s in slices.values()}
    if len(directions) != 1 or 0 in directions:
        return ""
    rises = 1 in directions
    signs = {p.estimate.mean > 0 for p in points}
    if len(signs) > 1:
        return f"the ratio {'rises' if rises else 'falls'} with {axis}"
    return f"the gap {'grows' if rises == (True in signs) else 'shrinks'} with {axis}"


def _direction(ordered: Sequence[_Point]) -> int:
    """1 where the effect rises at every step and its ends' intervals are apart, -1 where it falls so, else 0."""
    means = [p.estimate.mean for p in ordered]
    first, last = ordered[0].estimate.interval, ordered[-1].estimate.interval
    if len(ordered) < 2 or first is None or last is None:
        return 0
    if all(a < b for a, b in pairwise(means)) and first[1] < last[0]:
        return 1
    if all(a > b for a, b in pairwise(means)) and first[0] > last[1]:
        return -1
    return 0
