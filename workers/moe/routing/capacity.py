"""Which assignments an expert of limited capacity keeps."""

import numpy as np
from numpy.typing import NDArray

from workers.moe.routing.load import expert_load


def kept(ids: NDArray[np.int32], experts: int, capacity: int | None) -> NDArray[np.bool_]:
    """Whether an assignment is real (id < experts) and among the first `capacity` of its expert.

    Assignments are in token order: (token, choice) has the number token * topk + choice. None keeps every real one.
    ids: int32 [tokens, topk], in [0, experts] -> bool [tokens, topk].
    """
    real = ids < experts
    if capacity is None:
        return real
    by_expert = np.argsort(ids, axis=None, kind="stable")[: np.count_nonzero(real)]
    load = expert_load(ids, experts)
    first = np.cumsum(load) - load
    nth = np.arange(len(by_expert)) - np.repeat(first, load)
    keep = np.zeros(ids.size, np.bool_)
    keep[by_expert] = nth < capacity
    return keep.reshape(ids.shape)
