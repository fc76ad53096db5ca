"""Null routing: choices of a token that go to no expert."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workers.moe.routing.choice import Routing

NullMode = Literal["independent", "take_until_null"]


def null_slots(rng: np.random.Generator, tokens: int, topk: int, fraction: float, mode: NullMode) -> NDArray[np.bool_]:
    """Which choices go to no expert: bool [tokens, topk].

    independent:     each choice with probability `fraction`.
    take_until_null: the same, and every choice after a token's first null too. Choice j = 1 ... topk is then real with
                     probability (1 - fraction)^j, so that more than `fraction` of all choices are null.

    One rng state gives nested sets: what is null at a fraction is null at every larger one.
    """
    null = rng.random((tokens, topk)) < fraction
    match mode:
        case "independent":
            return null
        case "take_until_null":
            return np.logical_or.accumulate(null, axis=1)


def with_nulls(routing: Routing, null: NDArray[np.bool_], experts: int, renormalize: bool) -> Routing:
    """The routing with its null choices at id `experts` and weight 0. null: bool [tokens, topk].

    `renormalize` makes the weights that are left sum to 1, in every token that has weight left.
    """
    weights = np.where(null, 0, routing.weights)
    if renormalize:
        total = weights.sum(axis=1, keepdims=True, dtype=np.float64)
        weights = weights / np.where(total > 0, total, 1)
    return Routing(np.where(null, np.int32(experts), routing.ids), weights.astype(np.float32))
