"""Which combinations of a block's fields have a meaning, and which of its fields matter in them.

A combination is refused for what it says, never for what a device can do: that is known only where it runs. Refusals
are asked of jobs in which every field that cannot matter is at its default, so a rule here never asks whether a field
it names matters. A field is irrelevant when no value of it changes what is computed or how.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.job.base import INT32_MAX

if TYPE_CHECKING:
    from core.job.moe_block import MoeBlockJob

# Values that behave alike.
FUSED = ("fused_w13", "fused_w13_preweight", "fast")
EXPERT_PARALLEL = ("ep_dense", "ep", "ep_ring", "ep_a2a")
PROFILE_HARNESS = ("ref_dp", "staged_dp")
ROUTED_INT8 = ("int8_routed", "int8_all", "int8_routed_prequant")

Reasons = Iterator[tuple[str, str]]


def refusals(job: "MoeBlockJob") -> Iterator[str]:
    """A sentence for every reason to refuse the job: what does not go with what, or what to write instead."""
    yield from _of_sizes(job)
    yield from _not_built(job)
    yield from _of_the_profile_harness(job)
    yield from _of_passes(job)
    yield from _of_int8(job)


def irrelevant(job: "MoeBlockJob") -> Reasons:
    """The fields that cannot matter -> the choice that makes them so."""
    yield from _in_routing(job)
    yield from _in_experts(job)
    yield from _in_derivatives(job)
    yield from _in_packing(job)


def _of_sizes(job: "MoeBlockJob") -> Iterator[str]:
    if job.topk > job.experts:
        yield f"topk = {job.topk} is more than experts = {job.experts}: a token goes to an expert at most once"
    if job.tokens * job.topk > INT32_MAX:
        yield f"tokens x topk = {job.tokens * job.topk} assignments cannot be indexed with int32"
    if job.capacity_policy != "none" and not job.capacity_factor:
        yield f"capacity_factor = 0 keeps no assignment; capacity_policy = {job.capacity_policy} needs one above 0"
    if job.experts * (job.capacity or 0) > INT32_MAX:
        yield f"experts x capacity = {job.experts * (job.capacity or 0)} rows cannot be indexed with int32"


def _not_built(job: "MoeBlockJob") -> Iterator[str]:
    if job.parallel_mode == "fused_ep":
        yield "parallel_mode = fused_ep is not built yet"
    if job.backend == "hillclimb":
        yield "backend = hillclimb is not built yet"


def _of_the_profile_harness(job: "MoeBlockJob") -> Iterator[str]:
    mode = job.parallel_mode
    if mode not in PROFILE_HARNESS:
        return
    if job.routing != "softmax_topk":
        yield f"parallel_mode = {mode} routes inside the step; set routing = softmax_topk"
    if job.bench_pass != "forward":
        yield f"parallel_mode = {mode} is of the profile harness, which has no backward pass; set bench_pass = forward"
    if job.capacity_policy != "none":
        yield f"parallel_mode = {mode} has no place where all rows of an expert meet; set capacity_policy = none"
    if mode == "ref_dp":
        if job.quant_mode != "none":
            yield f"parallel_mode = ref_dp is the plain block, which has no quant_mode = {job.quant_mode}"
        if job.stage_timing:
            yield "parallel_mode = ref_dp has no stages to time; set stage_timing = false"


def _of_passes(job: "MoeBlockJob") -> Iterator[str]:
    if job.backend == "tokamax" and job.bench_pass != "forward":
        yield "backend = tokamax is used for the forward pass only"
    if job.queue_mode == "prequeue":
        if job.bench_pass != "forward":
            yield "queue_mode = prequeue: dispatch is part of what forward_backward differentiates"
        if job.parallel_mode != "none":
            yield f"queue_mode = prequeue: parallel_mode = {job.parallel_mode} dispatches between devices"
        if job.routing != "topk_softmax":
            yield "queue_mode = prequeue packs before the step, routing = softmax_topk routes inside it"
        if job.stage_timing:
            yield "queue_mode = prequeue leaves pack out, which stage_timing times"
    if job.stage_timing and job.bench_pass != "forward":
        yield "stage_timing times the stages of the forward pass; set bench_pass = forward"


def _of_int8(job: "MoeBlockJob") -> Iterator[str]:
    if job.quant_mode in ROUTED_INT8:
        if job.backend == "gmm":
            yield "backend = gmm: megablox has no int8; the logbooks silently switched to ragged_dot"
        elif job.backend == "tokamax":
            yield "backend = tokamax: its int8 product is not used here; take ragged_dot or blocked"
    if job.quant_mode == "int8_all" and not job.shared_expert_dim:
        yield "quant_mode = int8_all without a shared expert is int8_routed; write that"
    if job.quant_mode == "int8_routed_prequant" and job.w13_param == "concat":
        yield "w13_param = concat joins weights inside the step, quant_mode = int8_routed_prequant before it"


def _in_routing(job: "MoeBlockJob") -> Reasons:
    if job.distribution != "runs":
        yield from _for(f"distribution = {job.distribution}", "run_alpha", "run_noise_scale")
    if job.null_route_frac in (0, 1):
        because = f"null_route_frac = {job.null_route_frac:g}"
        yield from _for(because, "null_routing_mode", "renormalize_real_after_null")
    elif job.topk == 1:
        yield "null_routing_mode", "topk = 1, where no choice follows another"
    if job.routing == "topk_softmax":
        yield "renormalize_topk", "routing = topk_softmax, whose weights sum to 1"
    elif job.null_route_frac and job.renormalize_real_after_null:
        yield "renormalize_topk", "renormalize_real_after_null = true, after which weights sum to 1"


def _in_experts(job: "MoeBlockJob") -> Reasons:
    if not job.shared_expert_dim:
        yield "shared_fused", "shared_expert_dim = 0"
        if job.quant_mode == "int8":
            yield "quant_mode", "int8 is the shared expert's, and shared_expert_dim = 0"
    if job.impl not in FUSED:
        yield "w13_param", f"impl = {job.impl}"
    if job.parallel_mode == "none":
        yield "devices", "parallel_mode = none"
    if job.parallel_mode == "ref_dp":
        yield from _for("parallel_mode = ref_dp, which groups nothing", "backend", "impl", *_TILES)
    elif job.backend not in ("gmm", "ragged_dot"):
        yield from _for(f"backend = {job.backend}", *_TILES)
    elif job.backend == "ragged_dot":
        # JAX has a kernel for its other products, with tiles of its own
        yield from _for("backend = ragged_dot, which has a tile for drhs only", "tiles.forward", "tiles.dlhs")


def _in_derivatives(job: "MoeBlockJob") -> Reasons:
    if job.bench_pass == "forward":
        derivatives = ("permute_vjp", "matmul_vjp", "quant_vjp", "remat_mode", "tiles.dlhs", "tiles.drhs")
        yield from _for("bench_pass = forward", *derivatives)
        return
    if job.quant_mode == "none":
        yield "quant_vjp", "quant_mode = none"
    if job.backend != "ragged_dot":
        yield "matmul_vjp", f"backend = {job.backend}"
    elif job.matmul_vjp == "autodiff":
        yield "tiles.drhs", "matmul_vjp = autodiff"


def _in_packing(job: "MoeBlockJob") -> Reasons:
    if job.capacity_policy == "none":
        yield "capacity_factor", "capacity_policy = none"
    if job.queue_mode == "prequeue":
        yield "routing_pack_strategy", "queue_mode = prequeue"
    match job.parallel_mode:
        case "ref_dp":
            yield from _for("parallel_mode = ref_dp, which packs nothing", "routing_pack_strategy", "buffer_rows")
        case "ep_dense":
            yield "buffer_rows", "parallel_mode = ep_dense, whose devices hold every row"
        case "none" | "staged_dp" if not job.null_route_frac:
            yield "buffer_rows", "null_route_frac = 0: all rows are real"
        # rows of ep_a2a travel in a buffer before they are padded
        case mode if job.capacity_policy == "pad" and mode != "ep_a2a":
            yield "buffer_rows", "capacity_policy = pad"


_TILES = ("tiles.forward", "tiles.dlhs", "tiles.drhs")


def _for(because: str, *names: str) -> Reasons:
    return ((name, because) for name in names)
