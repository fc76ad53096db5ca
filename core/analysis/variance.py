"""How much a paired log-ratio scatters on a kind of device, as the ledger knows it from comparisons with many blocks.

One or two blocks do not show their own scatter; the ledger's other comparisons on the same kind of device do:
    var(d) = 2 (s_process^2 + s_iteration^2 / n),  n the iterations of a run.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance
from typing import NamedTuple

# A pooled variance of fewer degrees of freedom is off by more than a factor of 1.9 in one case of twenty.
ENOUGH_DF = 10


class Components(NamedTuple):
    """Variances of ln t: between processes, and between the iterations of one."""

    process: float
    iteration: float

    def pair_sd(self, iterations: int) -> float:
        """The scatter of one paired log-ratio whose two runs have that many iterations."""
        return math.sqrt(2 * (self.process + self.iteration / iterations))


def components(comparisons: Sequence[Sequence[float]], runs: Sequence[Sequence[int]]) -> Components | None:
    """From the log-ratios of comparisons and the iterations (ns) of their runs. None when they are too few to tell."""
    scattered = [c for c in comparisons if len(c) >= 2]
    df = sum(len(c) - 1 for c in scattered)
    timed = [[math.log(max(ns, 1)) for ns in run] for run in runs if len(run) >= 2]
    if df < ENOUGH_DF or not timed:
        return None
    pair = sum((len(c) - 1) * variance(c) for c in scattered) / df
    iteration_df = sum(len(run) - 1 for run in timed)
    iteration = sum((len(run) - 1) * variance(run) for run in timed) / iteration_df
    n = fmean(len(run) for run in timed)
    return Components(max(0.0, pair / 2 - iteration / n), iteration)
