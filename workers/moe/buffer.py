"""How many rows a packed buffer has: decided on the host, since a compiled program's shapes are fixed."""

import numpy as np
from numpy.typing import NDArray

from core.job import MoeBlockJob
from core.job.combinations import EXPERT_PARALLEL

# Steps in which a realised buffer grows: the logbooks' compact expert parallelism rounded to this.
ROW_STEP = 512


def buffer_rows(job: MoeBlockJob, ids: NDArray[np.int32], shards: int) -> int:
    """Rows of each device's packed buffer. ids: int32 [tokens, topk], as the step will choose them.

    worst: every assignment a device can see. realised: the real assignments of the device that has most, in whole
    steps, never more than the worst.
    """
    sharded_tokens = job.parallel_mode == "staged_dp"
    worst = ids.size // shards if sharded_tokens else ids.size
    if job.buffer_rows == "worst" or job.parallel_mode == "ep_dense":
        return worst
    if job.parallel_mode in EXPERT_PARALLEL:
        loads = np.bincount(ids.reshape(-1), minlength=job.experts)[: job.experts]
        most = int(loads.reshape(shards, -1).sum(axis=1).max())
    else:
        most = int((ids < job.experts).reshape(shards, -1).sum(axis=1).max())
    # one row at least: a buffer without any has no first element to point at
    return min(-(-max(most, 1) // ROW_STEP) * ROW_STEP, worst)
