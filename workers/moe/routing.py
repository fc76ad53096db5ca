"""Which experts a token goes to, and with which weight.

Routing is drawn on the host with NumPy, so that it is equal on every machine and for every arm of a comparison; the
timed program gets it as arguments. Knows nothing of the order the experts are computed in.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Routing(NamedTuple):
    """ids: int32 [tokens, topk], distinct in a row. weights: float32 [tokens, topk], each row sums to 1."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]


def topk_softmax(logits: NDArray[np.float32], topk: int) -> Routing:
    """The `topk` largest logits of each token, then softmax over those. logits: [tokens, experts]."""
    ids = np.argsort(-logits, axis=1, kind="stable")[:, :topk]
    chosen = np.take_along_axis(logits, ids, axis=1).astype(np.float64)
    scaled = np.exp(chosen - chosen.max(axis=1, keepdims=True))
    weights = scaled / scaled.sum(axis=1, keepdims=True)
    return Routing(ids.astype(np.int32), weights.astype(np.float32))


def random_logits(rng: np.random.Generator, tokens: int, experts: int) -> NDArray[np.float32]:
    """Independent N(0, 1) logits: float32 [tokens, experts]."""
    return rng.standard_normal((tokens, experts), dtype=np.float32)


def expert_load(ids: NDArray[np.int32], experts: int) -> NDArray[np.int64]:
    """Assignments each expert keeps: [experts]."""
    return np.bincount(ids.reshape(-1), minlength=experts)
