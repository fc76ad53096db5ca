"""The arrays a micro-benchmark is timed with, drawn on the host, and the digest of the fields that make them.

Drawn in float32, each from a Philox stream of its own, and rounded once to the job's dtype: equal on every machine, and
equal for every arm that differs only in how it computes.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from core.job import MicroJob, MoeLayerJob
from core.job.micro import MovedJob
from workers.micro import reference
from workers.moe.dispatch import Dispatch
from workers.moe.routing import Routing, random_logits, topk_softmax
from workers.moe.stages import State

# The second word of each array's Philox key; the job's seed is the first.
STREAMS = {"x": 0, "w1": 1, "w2": 2, "logits": 4, "packed": 6}


class Argument(NamedTuple):
    """How an array is drawn, and the job's fields that make it."""

    draw: Callable[[Any], Any]
    fields: tuple[str, ...]


def draw(job: MicroJob, names: Iterable[str]) -> State:
    """The arguments of a step, by name."""
    return {name: ARGUMENTS[name].draw(job) for name in names}


def digest(job: MicroJob, names: Iterable[str]) -> str:
    """64 hexadecimal digits: which arrays `draw` makes."""
    made = {name: {field: getattr(job, field) for field in ARGUMENTS[name].fields} for name in names}
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _normal(job: MicroJob, stream: str, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[Any]:
    drawn = _rng(job, stream).standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(scale)
    return drawn.astype(jnp.dtype(job.dtype))


def _rng(job: MicroJob, stream: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[job.seed, STREAMS[stream]]))


def _exact_logits(job: MicroJob) -> NDArray[np.float32]:
    return random_logits(_rng(job, "logits"), job.tokens, job.experts)


def _logits(job: MicroJob) -> NDArray[Any]:
    """N(0, 1); adding zero takes the sign from a zero."""
    rounded = _exact_logits(job).astype(jnp.dtype(job.dtype))
    return rounded + rounded.dtype.type(0)


def _routing(job: MicroJob) -> Routing:
    """The choice of a router whose logits were never rounded: the same experts in every dtype."""
    return topk_softmax(_exact_logits(job), job.topk)


def _gates(job: MicroJob) -> NDArray[Any]:
    return _routing(job).weights.astype(jnp.dtype(job.dtype))


def _dispatch(job: MicroJob) -> Dispatch:
    return reference.dispatch(_routing(job).ids, job.experts, None)


def _weights(job: MoeLayerJob) -> dict[str, NDArray[Any]]:
    """w1 ~ N(0, 1 / hidden), w2 ~ N(0, 1 / mlp_dim)."""
    return {
        "w1": _normal(job, "w1", (job.experts, job.hidden, job.mlp_dim), job.hidden**-0.5),
        "w2": _normal(job, "w2", (job.experts, job.mlp_dim, job.hidden), job.mlp_dim**-0.5),
    }


def _x(job: MovedJob) -> NDArray[Any]:
    return _normal(job, "x", (job.tokens, job.hidden))


def _packed(job: MovedJob) -> NDArray[Any]:
    """What experts would have returned: every row its own, so that no two can be taken for each other."""
    return _normal(job, "packed", (job.tokens * job.topk, job.hidden))


_CHOICE = ("tokens", "experts", "topk", "seed")

ARGUMENTS = {
    "x": Argument(_x, ("tokens", "hidden", "dtype", "seed")),
    "logits": Argument(_logits, ("tokens", "experts", "dtype", "seed")),
    "ids": Argument(lambda job: _routing(job).ids, _CHOICE),
    "gates": Argument(_gates, (*_CHOICE, "dtype")),
    "dispatch": Argument(_dispatch, _CHOICE),
    "packed": Argument(_packed, ("tokens", "topk", "hidden", "dtype", "seed")),
    "weights": Argument(_weights, ("experts", "hidden", "expand", "dtype", "seed")),
}
