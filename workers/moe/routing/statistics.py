"""What a routing looks like in numbers: how much of it is null or dropped, how even it is, how local."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.moe.routing.load import expert_load


class Statistics(NamedTuple):
    """Numbers of one routing, named as they are reported.

    null_frac:  null choices of all choices
    drop_frac:  assignments beyond capacity of the real ones; 0 where none is real
    load_...:   real assignments of an expert before any is dropped, over all experts; cv = std / mean, 0 where none is
                real; std is the population's
    run_...:    lengths of runs, in tokens: consecutive tokens whose first choice is the same, null being a choice too;
                p95 is interpolated linearly
    """

    null_frac: float
    drop_frac: float
    load_min: float
    load_max: float
    load_mean: float
    load_std: float
    load_cv: float
    run_mean: float
    run_p95: float
    run_max: float


def describe(ids: NDArray[np.int32], experts: int, kept: NDArray[np.bool_]) -> Statistics:
    """Of a routing and of what capacity leaves of it. ids: int32 [tokens, topk], kept: bool [tokens, topk]."""
    load = expert_load(ids, experts)
    real = int(load.sum())
    mean, std = float(load.mean()), float(load.std())
    runs = _run_lengths(ids[:, 0])
    return Statistics(
        null_frac=(ids.size - real) / ids.size,
        drop_frac=(real - int(kept.sum())) / real if real else 0.0,
        load_min=float(load.min()),
        load_max=float(load.max()),
        load_mean=mean,
        load_std=std,
        load_cv=std / mean if real else 0.0,
        run_mean=float(runs.mean()),
        run_p95=float(np.percentile(runs, 95)),
        run_max=float(runs.max()),
    )


def _run_lengths(values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Lengths of the stretches of equal values. values: [tokens] -> [runs]."""
    ends = np.append(np.flatnonzero(np.diff(values)) + 1, len(values))
    return np.diff(ends, prepend=0)
