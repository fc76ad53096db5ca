"""The closed subset of experts and tokens on which a block's outputs and gradients are compared with the reference.

Closed: every token routed to a chosen expert is chosen. So, with all experts' weights at hand, y and dx of the chosen
tokens and every weight gradient of the chosen experts are exact, at any size, without the rest of the batch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.moe.routing import expert_load

# Rows that no rule names are drawn too, since a fault may lie inside a group.
DRAWN_TOKENS = 64


class Subset(NamedTuple):
    """experts: chosen, each with at least one assignment. tokens: chosen. Both ascending."""

    experts: NDArray[np.int64]
    tokens: NDArray[np.int64]


def closed_subset(ids: NDArray[np.int32], experts: int, rng: np.random.Generator, whole: bool) -> Subset:
    """Choose from a routing. ids: int32 [tokens, topk], `experts` for none; `whole` chooses everything.

    Experts: the most loaded, the least loaded non-empty, and one drawn. Tokens: those routed to them, those of the
    first and last row of every group, and 64 drawn.
    """
    tokens, topk = ids.shape
    load = expert_load(ids, experts)
    used = np.flatnonzero(load)
    if whole:
        return Subset(used, np.arange(tokens))
    chosen = used if not used.size else np.unique([load.argmax(), used[load[used].argmin()], rng.choice(used)])
    routed = np.flatnonzero(np.isin(ids, chosen).any(axis=1))
    by_expert = np.argsort(ids.reshape(-1), kind="stable") // topk
    ends = np.cumsum(load)[used]
    edges = by_expert[np.concatenate([ends - load[used], ends - 1])]
    drawn = rng.choice(tokens, size=min(DRAWN_TOKENS, tokens), replace=False)
    return Subset(chosen, np.unique(np.concatenate([routed, edges, drawn])))
