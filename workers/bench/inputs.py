"""The arrays a block is timed with, drawn on the host from the job's fields, and the digest of those fields.

Equal on every machine, and equal for every arm of a comparison: how a block is computed does not enter. Each array has
a Philox stream of its own, so that none depends on the order or the shape of the others.
"""

import hashlib
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from core.job import MoeBlockJob
from core.job.combinations import FUSED
from workers.moe.int8.quantised import quantise_matrices, store
from workers.moe.routing import (
    Routing,
    null_slots,
    random_logits,
    runs_logits,
    softmax_topk,
    topk_softmax,
    with_nulls,
)
from workers.moe.stages import SHARED

# The second word of each array's Philox key; the job's seed is the first.
STREAMS = {
    name: number
    for number, name in enumerate(
        ("x", "w1", "w3", "w2", "logits", "check", "null", f"{SHARED}w1", f"{SHARED}w3", f"{SHARED}w2")
    )
}

# The fields that make the arrays. The digest is a hash of these, so a field that changes an array belongs here; one of
# the second line only when it is not at its default, so that digests of before there was such a field stay.
FIELDS = ("tokens", "hidden", "mlp_dim", "experts", "topk", "dtype", "init", "seed", "distribution")
LATER_FIELDS = (
    "shared_expert_dim",
    "run_alpha",
    "run_noise_scale",
    "routing",
    "renormalize_topk",
    "null_route_frac",
    "null_routing_mode",
    "renormalize_real_after_null",
)


class Inputs(NamedTuple):
    """What a job is measured on, in host memory.

    arguments: of its step, by name: x [tokens, hidden]; ids int32 [tokens, topk] and router_weights [tokens, topk], or
               logits [tokens, experts] with null bool [tokens, topk] for a step that routes; weights by name, as the
               job's impl stores them. All floats in the job's dtype
    weights:   by matrix: w1, w3 [experts, hidden, mlp_dim], w2 [experts, mlp_dim, hidden], shared_w1 ...
    routing:   what the step goes by, or what it will choose
    """

    arguments: dict[str, Any]
    weights: dict[str, NDArray[Any]]
    routing: Routing


def stream(job: MoeBlockJob, name: str) -> np.random.Generator:
    """The random numbers of one array of a job."""
    return np.random.Generator(np.random.Philox(key=[job.seed, STREAMS[name]]))


def draw(job: MoeBlockJob) -> Inputs:
    """Draw in float32 and round once to the job's dtype.

    x ~ N(0, 1). fan_in: a matrix from k to n values ~ N(0, 1 / k). unit: all ~ N(0, 1).
    """
    dtype = jnp.dtype(job.dtype)
    exact, null = _logits(job), _null(job)
    logits = exact.astype(dtype)
    routing = _routing(job, exact, logits, null)
    weights = {name: array.astype(dtype) for name, array in _weights(job).items()}
    arguments = {"x": _normal(job, "x", (job.tokens, job.hidden), 1.0).astype(dtype)}
    if job.routing == "softmax_topk":
        arguments |= {"logits": logits} if null is None else {"logits": logits, "null": null}
    else:
        arguments |= {"ids": routing.ids, "router_weights": routing.weights.astype(dtype)}
    return Inputs(arguments | {"weights": _as_stored(job, weights)}, weights, routing)


def digest(job: MoeBlockJob) -> str:
    """64 hexadecimal digits: which arrays `draw` makes, however they are stored."""
    of = job.canonicalised()
    fields = {name: getattr(of, name) for name in FIELDS}
    later = {name: getattr(of, name) for name in LATER_FIELDS}
    fields |= {name: value for name, value in later.items() if value != type(of).model_fields[name].default}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _logits(job: MoeBlockJob) -> NDArray[np.float32]:
    rng = stream(job, "logits")
    if job.distribution == "runs":
        return runs_logits(rng, job.tokens, job.experts, job.run_alpha, job.run_noise_scale)
    return random_logits(rng, job.tokens, job.experts)


def _null(job: MoeBlockJob) -> NDArray[np.bool_] | None:
    if not job.null_route_frac:
        return None
    return null_slots(stream(job, "null"), job.tokens, job.topk, job.null_route_frac, job.null_routing_mode)


def _routing(
    job: MoeBlockJob, exact: NDArray[np.float32], rounded: NDArray[Any], null: NDArray[np.bool_] | None
) -> Routing:
    """softmax_topk goes by the logits as the step gets them, rounded; topk_softmax is decided here, by exact ones."""
    if job.routing == "softmax_topk":
        routing = softmax_topk(rounded.astype(np.float32), job.topk, job.renormalize_topk)
    else:
        routing = topk_softmax(exact, job.topk)
    return routing if null is None else with_nulls(routing, null, job.experts, job.renormalize_real_after_null)


def _weights(job: MoeBlockJob) -> dict[str, NDArray[np.float32]]:
    experts, hidden, wide = job.experts, job.hidden, job.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {
        "w1": (experts, hidden, wide),
        "w3": (experts, hidden, wide),
        "w2": (experts, wide, hidden),
    }
    if shared := job.shared_expert_dim:
        shapes |= {f"{SHARED}w1": (hidden, shared), f"{SHARED}w3": (hidden, shared), f"{SHARED}w2": (shared, hidden)}
    unit = job.init == "unit"
    return {name: _normal(job, name, shape, 1.0 if unit else shape[-2] ** -0.5) for name, shape in shapes.items()}


def _normal(job: MoeBlockJob, name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    drawn = stream(job, name).standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(scale)
    return drawn


def _as_stored(job: MoeBlockJob, weights: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The weights as the step takes them: w1|w3 joined, the experts' as int8, where the job says so."""
    stored: dict[str, Any] = dict(weights)
    if job.impl in FUSED and job.w13_param == "stored" and job.parallel_mode != "ref_dp":
        stored["w13"] = np.concatenate([stored.pop("w1"), stored.pop("w3")], axis=2)
    if job.shared_expert_dim and job.shared_fused:
        stored[f"{SHARED}w13"] = np.concatenate([stored.pop(f"{SHARED}w1"), stored.pop(f"{SHARED}w3")], axis=1)
    if job.quant_mode == "int8_routed_prequant":
        for name in [name for name in stored if not name.startswith(SHARED)]:
            stored[name] = jax.tree.map(np.asarray, store(quantise_matrices(jnp.asarray(stored[name]))))
    return stored
