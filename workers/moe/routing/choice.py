"""From logits to a routing: the largest logits of a token are its experts, a softmax gives their weights.

Among equal logits the lower expert comes first.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Routing(NamedTuple):
    """Where each token goes, its first choice first.

    ids: int32 [tokens, topk], in [0, experts] and distinct in a row but for `experts`, the null slot's.
    weights: float32 [tokens, topk], 0 in a null slot.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]


def topk_softmax(logits: NDArray[Any], topk: int) -> Routing:
    """The `topk` largest logits of each token, then softmax over those: weights sum to 1. logits: [tokens, experts]."""
    ids = _largest(logits, topk)
    return Routing(ids.astype(np.int32), _softmax(np.take_along_axis(logits, ids, axis=1)).astype(np.float32))


def softmax_topk(logits: NDArray[Any], topk: int, renormalize: bool) -> Routing:
    """Softmax over all experts, then the `topk` largest; `renormalize` makes their weights sum to 1.

    logits: [tokens, experts], of any float dtype.
    """
    ids = _largest(logits, topk)
    weights = np.take_along_axis(_softmax(logits), ids, axis=1)
    if renormalize:
        weights /= weights.sum(axis=1, keepdims=True)
    return Routing(ids.astype(np.int32), weights.astype(np.float32))


def _largest(logits: NDArray[Any], topk: int) -> NDArray[np.int64]:
    """The experts of the `topk` largest logits of each token, the largest first: [tokens, topk]."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :topk]


def _softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of each row."""
    wide = logits.astype(np.float64)
    scaled = np.exp(wide - wide.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)
