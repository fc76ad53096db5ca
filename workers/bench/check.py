"""Is what a program returned right? Compared with the float32 reference, at full size, on the timed arrays.

The comparison runs on a closed subset of experts and tokens (`subset`); everywhere else values must be finite, and an
expert's gradient zero exactly when it kept no assignment. A wrong kernel is a failed job, not a fast one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from core.job import MoeBlockJob
from workers.bench.bench import Checked, Measure
from workers.bench.inputs import Inputs, stream
from workers.bench.subset import Subset, closed_subset
from workers.moe.reference import reference
from workers.moe.routing import expert_load


class Bounds(NamedTuple):
    """The largest relative error of a whole array, and of its worst row (y, dx) or expert (dW)."""

    whole: float
    worst: float


# Correct code measures 4e-7 and 5e-7 in float32, 9e-3 and 1.4e-2 in bfloat16.
BOUNDS = {"float32": Bounds(5e-6, 2e-5), "bfloat16": Bounds(2e-2, 4e-2)}

# Up to 18 tokens hidden mlp_dim experts FLOPs (every expert on every token, forward and backward) the reference of
# everything takes seconds at most.
WHOLE_FLOPS = {"cpu": 1e11}
WHOLE_FLOPS_ACCELERATOR = 2e14

# A row whose parts nearly cancel has no relative precision of its own: it is measured against this part of the
# typical row, which still shows a row that is wrong.
SMALLEST_ROW = 0.25


class Errors(NamedTuple):
    """Relative errors: of the whole array, and of the worst of its leading indices."""

    whole: float
    worst: float


def check(job: MoeBlockJob, inputs: Inputs, placed: Inputs, returned: dict[str, jax.Array]) -> Checked:
    """Compare what a step returned. `inputs` on the host and `placed` on the device are the same arrays."""
    limit = WHOLE_FLOPS.get(jax.default_backend(), WHOLE_FLOPS_ACCELERATOR)
    whole = 18 * job.tokens * job.hidden * job.mlp_dim * job.experts <= limit
    subset = closed_subset(inputs.ids, job.experts, stream(job, "check"), whole)
    weights = _by_matrix(placed.weights, "")
    outputs = _by_matrix(returned, "d")

    errors = {
        name: relative_errors(_chosen(outputs[name], name, subset), expected)
        for name, expected in _expected(job, inputs, weights, subset).items()
    }
    if job.bench_pass == "forward_backward":
        errors["loss"] = loss_error(outputs, weights)
    measures = [
        measure
        for name, error in errors.items()
        for measure in (Measure("rel_error", error.whole, name), Measure("worst_error", error.worst, name))
    ]
    refusals = [*_misplaced(outputs, expert_load(inputs.ids, job.experts)), *_too_far(errors, job.dtype)]
    return Checked(tuple(measures), "; ".join(refusals) or None)


def relative_errors(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Errors:
    """Norm of the difference over norm of `expected`, for the whole and for the worst leading index."""
    by_row = (len(expected), -1)
    off = np.linalg.norm((found - expected).reshape(by_row).astype(np.float64), axis=1)
    size = np.linalg.norm(expected.reshape(by_row).astype(np.float64), axis=1)
    typical = np.sqrt(np.mean(size**2))
    return Errors(
        whole=float(np.linalg.norm(off) / np.linalg.norm(size)),
        worst=float(np.max(off / np.maximum(size, SMALLEST_ROW * typical))),
    )


def loss_error(outputs: dict[str, jax.Array], weights: dict[str, jax.Array]) -> Errors:
    """The loss against <dw2, w2> / 2, at full size.

    y is linear in w2, so mean(y^2) is homogeneous of degree 2 in it, and Euler's theorem gives <dw2, w2> = 2 loss.
    """
    partial = np.asarray(_row_products(outputs["dw2"], weights["w2"]), np.float64)
    expected = float(partial.sum()) / 2
    error = abs(float(outputs["loss"]) - expected) / expected
    return Errors(error, error)


@jax.jit
def _row_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum over the last axis of a * b, in float32."""
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=-1)


def _by_matrix(arrays: dict[str, jax.Array], prefix: str) -> dict[str, jax.Array]:
    """The arrays, with w13 (or its gradient, under the prefix "d") taken apart into w1 and w3."""
    joined = f"{prefix}w13"
    if joined not in arrays:
        return arrays
    w1, w3 = jnp.split(arrays[joined], 2, axis=2)
    return {name: array for name, array in arrays.items() if name != joined} | {f"{prefix}w1": w1, f"{prefix}w3": w3}


def _chosen(array: jax.Array, name: str, subset: Subset) -> NDArray[np.float32]:
    """The part of an output that the reference knows: rows of tokens (y, dx) or of experts (dW)."""
    return np.asarray(array[subset.tokens if name in ("y", "dx") else subset.experts], np.float32)


def _expected(
    job: MoeBlockJob, inputs: Inputs, weights: dict[str, jax.Array], subset: Subset
) -> dict[str, NDArray[np.float32]]:
    """The reference's outputs on the subset, by name: y, or dx and every dW."""
    x = jnp.asarray(inputs.x[subset.tokens], jnp.float32)
    rows, gates = _by_expert(inputs.ids[subset.tokens], inputs.router_weights[subset.tokens], job.experts)
    arguments = (x, jnp.asarray(rows), jnp.asarray(gates), weights["w1"], weights["w3"], weights["w2"])
    if job.bench_pass == "forward":
        return {"y": np.asarray(_reference(*arguments))}
    dx, *dweights = _reference_gradients(2 / (job.tokens * job.hidden), *arguments)
    named = zip(("dw1", "dw3", "dw2"), dweights, strict=True)
    return {"dx": np.asarray(dx)} | {name: _chosen(gradient, name, subset) for name, gradient in named}


def _by_expert(ids: NDArray[np.int32], weights: NDArray[Any], experts: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The rows and gates of `reference`. ids, weights: [tokens, topk] -> [experts, most] each."""
    most = int(expert_load(ids, experts).max())
    rows = np.full((experts, most), len(ids), np.int32)
    gates = np.zeros((experts, most), np.float32)
    for expert in range(experts):
        tokens, choices = np.nonzero(ids == expert)
        rows[expert, : len(tokens)] = tokens
        gates[expert, : len(tokens)] = weights[tokens, choices]
    return rows, gates


_reference = jax.jit(reference)


@jax.jit
def _reference_gradients(
    scale: float, x: jax.Array, rows: jax.Array, gates: jax.Array, *weights: jax.Array
) -> tuple[jax.Array, ...]:
    """Gradients of scale / 2 * sum(y^2) with respect to x and the weights, in float32."""
    wide = [matrix.astype(jnp.float32) for matrix in weights]
    y, pull_back = jax.vjp(lambda x, *weights: reference(x, rows, gates, *weights), x, *wide)
    return pull_back(scale * y)


def _misplaced(outputs: dict[str, jax.Array], load: NDArray[np.int64]) -> Iterator[str]:
    """What is wrong anywhere: values that are not finite, gradients of experts without rows, or none of one with."""
    for name, array in outputs.items():
        if not _finite(array):
            yield f"{name} holds values that are not finite"
        elif name.startswith("dw"):
            wrong = np.flatnonzero(np.asarray(_nonzero(array)) != (load > 0))
            if wrong.size:
                rows = load[wrong[0]]
                found = "is zero" if rows else "is not zero"
                yield f"{name} of expert {wrong[0]} {found}, which kept {rows} assignments ({wrong.size} such experts)"


@jax.jit
def _finite(array: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(array))


@jax.jit
def _nonzero(gradient: jax.Array) -> jax.Array:
    """[experts, ...] -> [experts]: whether any of an expert's values is not zero."""
    return jnp.any(gradient != 0, axis=(1, 2))


def _too_far(errors: dict[str, Errors], dtype: str) -> Iterator[str]:
    bounds = BOUNDS[dtype]
    for name, error in errors.items():
        # written so that NaN is too far
        if not (error.whole <= bounds.whole and error.worst <= bounds.worst):
            yield (
                f"{name} is off by {error.whole:.1e} as a whole and {error.worst:.1e} at worst"
                f" ({bounds.whole:.0e} and {bounds.worst:.0e} are allowed in {dtype})"
            )
