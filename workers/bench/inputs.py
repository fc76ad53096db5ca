"""The arrays a block is timed with, drawn on the host from the job's fields, and the digest of those fields.

Equal on every machine, and equal for every arm of a comparison: how a block is computed does not enter. Each array has
a Philox stream of its own, so that none depends on the order or the shape of the others.
"""

import hashlib
import json
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from core.job import MoeBlockJob
from workers.moe.routing import Routing, random_logits, topk_softmax

# The second word of each array's Philox key; the job's seed is the first.
STREAMS = {"x": 0, "w1": 1, "w3": 2, "w2": 3, "logits": 4, "check": 5}

# The fields that make the arrays. The digest is a hash of these, so a field that changes an array belongs here.
FIELDS = ("tokens", "hidden", "mlp_dim", "experts", "topk", "dtype", "init", "seed", "distribution")


class Inputs(NamedTuple):
    """The arguments of a step, in its order: NumPy arrays as drawn, JAX arrays once placed.

    x: [tokens, hidden]; ids: int32 [tokens, topk]; router_weights: [tokens, topk]; all but ids in the job's dtype;
    weights: by name, as the job's impl stores them.
    """

    x: Any
    ids: Any
    router_weights: Any
    weights: dict[str, Any]


def stream(job: MoeBlockJob, name: str) -> np.random.Generator:
    """The random numbers of one array of a job."""
    return np.random.Generator(np.random.Philox(key=[job.seed, STREAMS[name]]))


def draw(job: MoeBlockJob) -> Inputs:
    """Draw in float32 and round once to the job's dtype.

    x ~ N(0, 1). fan_in: w1, w3 ~ N(0, 1 / hidden), w2 ~ N(0, 1 / mlp_dim). unit: all ~ N(0, 1).
    """
    dtype = jnp.dtype(job.dtype)
    routing = draw_routing(job)
    return Inputs(
        x=_normal(job, "x", (job.tokens, job.hidden), 1.0).astype(dtype),
        ids=routing.ids,
        router_weights=routing.weights.astype(dtype),
        weights=_as_stored(job, {name: array.astype(dtype) for name, array in _weights(job).items()}),
    )


def draw_routing(job: MoeBlockJob) -> Routing:
    """`random`: independent N(0, 1) logits."""
    return topk_softmax(random_logits(stream(job, "logits"), job.tokens, job.experts), job.topk)


def digest(job: MoeBlockJob) -> str:
    """64 hexadecimal digits: which arrays `draw` makes, however they are stored."""
    fields = {name: getattr(job, name) for name in FIELDS}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _weights(job: MoeBlockJob) -> dict[str, NDArray[np.float32]]:
    up = (job.experts, job.hidden, job.mlp_dim)
    down = (job.experts, job.mlp_dim, job.hidden)
    unit = job.init == "unit"
    up_scale, down_scale = (1.0, 1.0) if unit else (job.hidden**-0.5, job.mlp_dim**-0.5)
    return {
        "w1": _normal(job, "w1", up, up_scale),
        "w3": _normal(job, "w3", up, up_scale),
        "w2": _normal(job, "w2", down, down_scale),
    }


def _normal(job: MoeBlockJob, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    drawn = stream(job, name).standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(scale)
    return drawn


def _as_stored(job: MoeBlockJob, weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if job.impl == "fused_w13" and job.w13_param == "stored":
        return {"w13": np.concatenate([weights["w1"], weights["w3"]], axis=2), "w2": weights["w2"]}
    return weights
