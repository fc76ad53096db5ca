"""Is what a program returned right? Compared with the float32 reference, at full size, on the timed arrays.

The comparison runs on a closed subset of experts and tokens (`subset`); everywhere else values must be finite, and an
expert's gradient zero exactly when it kept no assignment. A wrong kernel is a failed job, not a fast one.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from core.job import MoeBlockJob
from core.job.combinations import FUSED
from workers.bench.bench import Checked, Measure
from workers.bench.inputs import Inputs, stream
from workers.bench.subset import Subset, closed_subset
from workers.moe.int8.arithmetic import STRAIGHT_THROUGH
from workers.moe.int8.quantised import quantise_matrices
from workers.moe.multiply import Numbers, routed_numbers, shared_numbers
from workers.moe.reference import Matrices, Rounding, reference
from workers.moe.routing import expert_load, kept
from workers.moe.stages import SHARED


class Bounds(NamedTuple):
    """The largest relative error of a whole array, and of its worst row (y, dx) or expert (dW)."""

    whole: float
    worst: float

    def __str__(self) -> str:
        return f"{self.whole:.0e} and {self.worst:.0e}" if self.worst < float("inf") else f"{self.whole:.0e} as a whole"


# Correct code measures 4e-7 and 5e-7 in float32, 9e-3 and 1.4e-2 in bfloat16.
BOUNDS = {"float32": Bounds(5e-6, 2e-5), "bfloat16": Bounds(2e-2, 4e-2)}
# int8 against the reference that rounds where it does. A rounding in bfloat16 moves values across int8's edges: correct
# code measures 1e-3 and 1.1e-2 in float32, 2.1e-2 and 3.1e-2 in bfloat16, both in dx, which has come through most.
INT8_BOUNDS = {"float32": Bounds(5e-3, 4e-2), "bfloat16": Bounds(3e-2, 6e-2)}
# int8 against the plain reference, as a whole: correct code measures up to 4.7e-2, more with wider matrices. A single
# row of a narrow block is off by any amount, so the worst one is reported and bounds nothing.
QUANT_BOUNDS = Bounds(8e-2, float("inf"))

# Up to 18 tokens hidden mlp_dim experts FLOPs (every expert on every token, forward and backward) the reference of
# everything takes seconds at most.
WHOLE_FLOPS = {"cpu": 1e11}
WHOLE_FLOPS_ACCELERATOR = 2e14

# A row of y or dx whose parts nearly cancel has no relative precision of its own: it is measured against this part of
# the typical row, which still shows a row that is wrong. An expert's gradient is measured against itself.
SMALLEST_ROW = 0.25


# Complaints of a refusal that are spelt out; every error is a metric.
SHOWN = 3


class Errors(NamedTuple):
    """Relative errors: of the whole array, and of the worst of its leading indices."""

    whole: float
    worst: float


def check(job: MoeBlockJob, inputs: Inputs, returned: dict[str, jax.Array]) -> Checked:
    """Compare what a step returned for `inputs`.

    Under a quantisation the reference rounds as the job does; how far that is from the plain one is `quant_error`.
    """
    kept_by = np.where(kept(inputs.routing.ids, job.experts, job.capacity), inputs.routing.ids, job.experts)
    limit = WHOLE_FLOPS.get(jax.default_backend(), WHOLE_FLOPS_ACCELERATOR)
    # the shared expert's gradient is a sum over all tokens
    needed = job.shared_expert_dim and job.bench_pass == "forward_backward"
    whole = bool(needed) or 18 * job.tokens * job.hidden * job.mlp_dim * job.experts <= limit
    subset = closed_subset(kept_by, job.experts, stream(job, "check"), whole)
    weights = {name: jnp.asarray(array) for name, array in inputs.weights.items()}
    outputs = _by_matrix(returned)

    def errors(rounding: Rounding) -> dict[str, Errors]:
        expected = _expected(job, inputs, kept_by, weights, subset, rounding)
        return {
            name: relative_errors(_chosen(outputs[name], name, subset), array, _floor(name))
            for name, array in expected.items()
            if name in outputs
        }

    off = errors(rounding(job))
    if job.bench_pass == "forward_backward":
        off["loss"] = loss_error(job, outputs, weights)
    measures = list(_named("rel_error", "worst_error", off))
    refusals = [
        *_missing(job, outputs, weights),
        *_of_other_kinds(job, outputs, weights),
        *_misplaced(outputs, expert_load(kept_by, job.experts)),
        *too_far(off, (BOUNDS if job.quant_mode == "none" else INT8_BOUNDS)[job.dtype], _arithmetic(job)),
    ]
    if job.quant_mode != "none":
        lost = errors(Rounding())
        measures += _named("quant_error", "quant_worst_error", lost)
        refusals += too_far(lost, QUANT_BOUNDS, "int8, of the plain block")
    return Checked(tuple(measures), _first_of(refusals))


def _first_of(refusals: list[str]) -> str | None:
    """A sentence a person reads to its end: what is wrong is often wrong everywhere."""
    shown = "; ".join(refusals[:SHOWN])
    more = len(refusals) - SHOWN
    return (f"{shown}; and {more} more" if more > 0 else shown) or None


def rounding(job: MoeBlockJob) -> Rounding:
    """What the job rounds, as the reference takes it."""
    return Rounding(
        routed=routed_numbers(job),
        shared=shared_numbers(job),
        w13_joined=job.impl in FUSED,
        shared_w13_joined=job.shared_fused,
    )


def _arithmetic(job: MoeBlockJob) -> str:
    return job.dtype if job.quant_mode == "none" else f"{job.quant_mode} of {job.dtype}"


def _named(whole: str, worst: str, errors: dict[str, Errors]) -> Iterator[Measure]:
    for name, error in errors.items():
        yield Measure(whole, error.whole, name)
        yield Measure(worst, error.worst, name)


def _floor(name: str) -> float:
    return SMALLEST_ROW if name in ("y", "dx") else 0.0


def relative_errors(found: NDArray[np.float32], expected: NDArray[np.float32], floor: float) -> Errors:
    """Norm of the difference over norm of `expected`, for the whole and for the worst leading index.

    `floor`: the least an index is measured against, in parts of the typical one. Where zero is expected, the norm of
    what was found.
    """
    if not expected.size:
        return Errors(0.0, 0.0)
    by_row = (len(expected), -1)
    off = np.linalg.norm((found - expected).reshape(by_row).astype(np.float64), axis=1)
    size = np.linalg.norm(expected.reshape(by_row).astype(np.float64), axis=1)
    typical = np.sqrt(np.mean(size**2))
    if not typical:
        return Errors(float(np.linalg.norm(off)), float(np.max(off)))
    return Errors(
        whole=float(np.linalg.norm(off) / np.linalg.norm(size)),
        worst=float(np.max(off / np.where(size > 0, np.maximum(size, floor * typical), 1.0))),
    )


def loss_error(job: MoeBlockJob, outputs: dict[str, jax.Array], weights: dict[str, jax.Array]) -> Errors:
    """The loss against half the sum of <dw2, w2> over w2 of all experts and of the shared one, at full size.

    y is linear in all of them, so mean(y^2) is homogeneous of degree 2, and Euler's theorem gives that sum = 2 loss.
    Where a product's matrix is rounded, y is linear in the rounded one, and its derivative is what dw2 is.
    """
    rounds = rounding(job)
    pairs = [(outputs["dw2"], _rounded(weights["w2"], rounds.routed))]
    if job.shared_expert_dim:
        pairs.append((outputs["dshared_w2"], _rounded(weights["shared_w2"][None], rounds.shared)[0]))
    expected = sum(float(np.asarray(_row_products(*pair), np.float64).sum()) for pair in pairs) / 2
    error = abs(float(outputs["loss"]) - expected) / (abs(expected) or 1.0)
    return Errors(error, error)


def _rounded(matrices: jax.Array, numbers: Numbers) -> jax.Array:
    if numbers is Numbers.IN_DTYPE:
        return matrices
    return STRAIGHT_THROUGH.real(quantise_matrices(matrices.astype(jnp.float32)))


@jax.jit
def _row_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """sum over the last axis of a * b, in float32."""
    return jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32), axis=-1)


def _by_matrix(outputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The outputs, with gradients of joined weights taken apart: dw13 into dw1 and dw3."""
    apart: dict[str, jax.Array] = {}
    for name, array in outputs.items():
        if name.endswith("w13"):
            apart[name[:-1]], apart[f"{name[:-2]}3"] = jnp.split(array, 2, axis=-1)
        else:
            apart[name] = array
    return apart


def _chosen(array: jax.Array, name: str, subset: Subset) -> NDArray[np.float32]:
    """The part of an output that the reference knows: rows of tokens (y, dx), of experts (dW), all of a shared dW."""
    if name.startswith(f"d{SHARED}"):
        return np.asarray(array, np.float32)[None]
    return np.asarray(array[subset.tokens if name in ("y", "dx") else subset.experts], np.float32)


def _expected(
    job: MoeBlockJob,
    inputs: Inputs,
    kept_by: NDArray[np.int32],
    weights: dict[str, jax.Array],
    subset: Subset,
    rounding: Rounding,
) -> dict[str, NDArray[np.float32]]:
    """The reference's outputs on the subset, by name: y, or dx and every dW. kept_by: ids, `experts` where not kept."""
    x = jnp.asarray(inputs.arguments["x"][subset.tokens], jnp.float32)
    # as the step has them: rounded to the dtype
    gates = inputs.routing.weights[subset.tokens].astype(job.dtype).astype(np.float32)
    routing = tuple(jnp.asarray(each) for each in _by_expert(kept_by[subset.tokens], gates, job.experts))
    if job.bench_pass == "forward":
        return {"y": np.asarray(_reference(rounding, x, *routing, weights))}
    dx, dweights = _reference_gradients(rounding, 2 / (job.tokens * job.hidden), x, *routing, weights)
    gradients = {f"d{name}": gradient for name, gradient in dweights.items()}
    return {name: _chosen(array, name, subset) for name, array in gradients.items()} | {"dx": np.asarray(dx)}


def _by_expert(
    ids: NDArray[np.int32], gates: NDArray[np.float32], experts: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The rows and gates of `reference`. ids, gates: [tokens, topk] -> [experts, most] each."""
    load = expert_load(ids, experts)
    by_expert = np.argsort(ids, axis=None, kind="stable")[: load.sum()]
    within = np.arange(load.sum()) - np.repeat(np.cumsum(load) - load, load)
    group = np.repeat(np.arange(experts), load)
    rows = np.full((experts, int(load.max())), len(ids), np.int32)
    beside = np.zeros(rows.shape, np.float32)
    rows[group, within] = by_expert // ids.shape[1]
    beside[group, within] = gates.reshape(-1)[by_expert]
    return rows, beside


@partial(jax.jit, static_argnums=0)
def _reference(rounding: Rounding, x: jax.Array, rows: jax.Array, gates: jax.Array, weights: Matrices) -> jax.Array:
    return reference(x, rows, gates, weights, rounding)


@partial(jax.jit, static_argnums=0)
def _reference_gradients(
    rounding: Rounding, scale: float, x: jax.Array, rows: jax.Array, gates: jax.Array, weights: Matrices
) -> tuple[jax.Array, Matrices]:
    """Gradients of scale / 2 * sum(y^2) with respect to x and the weights, in float32."""
    wide = {name: matrix.astype(jnp.float32) for name, matrix in weights.items()}
    y, pull_back = jax.vjp(lambda x, weights: reference(x, rows, gates, weights, rounding), x, wide)
    return pull_back(scale * y)


def _of_other_kinds(job: MoeBlockJob, outputs: dict[str, jax.Array], weights: dict[str, jax.Array]) -> Iterator[str]:
    """Outputs that are not the arrays they should be, which a comparison of values may not see."""
    shapes = {f"d{name}": weight.shape for name, weight in weights.items()}
    shapes |= {"loss": (), **dict.fromkeys(("y", "dx"), (job.tokens, job.hidden))}
    for name, array in outputs.items():
        dtype = "float32" if name == "loss" else job.dtype
        if (array.shape, array.dtype) != (shapes[name], jnp.dtype(dtype)):
            yield f"{name} is {array.dtype} {array.shape}, not {dtype} {shapes[name]}"


def _missing(job: MoeBlockJob, outputs: dict[str, jax.Array], weights: dict[str, jax.Array]) -> Iterator[str]:
    wanted = ["y"] if job.bench_pass == "forward" else ["loss", "dx", *(f"d{name}" for name in weights)]
    for name in wanted:
        if name not in outputs:
            yield f"{name} is missing"


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


def too_far(errors: dict[str, Errors], bounds: Bounds, arithmetic: str) -> Iterator[str]:
    """A sentence for each error beyond its bounds."""
    for name, error in errors.items():
        # written so that NaN is too far
        if not (error.whole <= bounds.whole and error.worst <= bounds.worst):
            yield (
                f"{name} is off by {error.whole:.1e} as a whole and {error.worst:.1e} at worst"
                f" ({bounds} are allowed in {arithmetic})"
            )
