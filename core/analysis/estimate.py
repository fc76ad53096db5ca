"""One comparison's effect: the mean of its paired log-ratios, and how well it is known.

A block gives one log-ratio d = ln(median of the reference's iterations) - ln(median of the arm's): above 0 the arm is
faster. Blocks are the replicates; iterations inside a block are not.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

from core.analysis import student

LEVEL = 0.95

# Fewer log-ratios than this do not say how much they scatter.
ENOUGH = 3

# More blocks than this nobody waits for: the effect is too near the edge of the band.
HOPELESS = 1_000


class Estimate(NamedTuple):
    """`mean` of the log-ratios of `blocks` blocks. `sd`: of one of them, None when it is not known. `borrowed`: the sd
    comes from the rest of the ledger, so the interval is normal instead of Student's."""

    mean: float
    blocks: int
    sd: float | None
    borrowed: bool

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval, in log-ratio."""
        if self.sd is None:
            return None
        factor = NormalDist().inv_cdf(0.5 + LEVEL / 2) if self.borrowed else student.quantile(LEVEL, self.blocks - 1)
        return factor * self.sd / math.sqrt(self.blocks)

    @property
    def interval(self) -> tuple[float, float] | None:
        half = self.half_width
        return None if half is None else (self.mean - half, self.mean + half)

    def p_beyond(self, band: float) -> float:
        """Two-sided p-value of "the effect lies inside [-band, band]": below 1 - LEVEL exactly when the interval lies
        outside the band, so that an interval and its p-value never contradict each other."""
        beyond = abs(self.mean) - band
        if self.sd is None or beyond <= 0:
            return 1.0
        if self.sd == 0:
            return 0.0
        score = beyond / (self.sd / math.sqrt(self.blocks))
        return 2 * NormalDist().cdf(-score) if self.borrowed else student.outside(score, self.blocks - 1)


def estimate(log_ratios: Sequence[float], pair_sd: float | None = None) -> Estimate | None:
    """The effect these log-ratios show, or None without any. `pair_sd`: the scatter of one log-ratio as the rest of
    the ledger knows it, used when these are too few to tell."""
    if not log_ratios:
        return None
    mean = fmean(log_ratios)
    if len(log_ratios) >= ENOUGH:
        return Estimate(mean, len(log_ratios), stdev(log_ratios), borrowed=False)
    return Estimate(mean, len(log_ratios), pair_sd, borrowed=pair_sd is not None)


def blocks_to_settle(e: Estimate, band: float) -> int | None:
    """The fewest blocks in all whose interval, around this mean and with this scatter, would lie on one side of the
    band's edge. None when that is more than HOPELESS."""
    if e.sd is None:
        return ENOUGH
    room, sd = abs(abs(e.mean) - band), e.sd
    counts = range(max(e.blocks + 1, ENOUGH), HOPELESS + 1)
    # the half-width falls with every block
    first = bisect_left(counts, True, key=lambda n: student.quantile(LEVEL, n - 1) * sd / math.sqrt(n) < room)
    return counts[first] if first < len(counts) else None
