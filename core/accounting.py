"""Rates of a job from its time: versioned formulas, so that a stored number says how it was derived.

The formulas are those of DESIGN §9a. `model` counts the work the mathematics asks for, `executed` the rows that the
grouped matmuls are told of, and what the backward pass computes again; padding inside a kernel is neither. A number
that follows from neither the job nor what its run counted is None, never guessed.
"""

from typing import Final, NamedTuple

from core.hardware import chip_of
from core.job import MoeBlockJob
from core.job.combinations import ROUTED_INT8
from core.job.micro import (
    CapacityJob,
    CombineOnlyJob,
    MoeLayerJob,
    PackJob,
    PackOnlyJob,
    RoutingJob,
    TopkJob,
)
from core.model import Frozen

# Stored beside every derived number; each grows with any change that moves one of its numbers.
VERSION: Final = "moe/1"
ROUTING_VERSION: Final = "routing/1"

# A backward pass is two matmuls of the forward's size for each of its matmuls: one for x, one for the weights.
PASSES = {"forward": 1, "forward_backward": 3}
# The backward pass of a rematerialised part begins with its forward pass.
REMATERIALISED = 4
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class Rows(NamedTuple):
    """Rows of one call, all devices together. None: not known.

    model: assignments that reach the output, neither null nor dropped. executed: rows inside `group_sizes`.
    """

    model: int | None = None
    executed: int | None = None


NOT_COUNTED: Final = Rows()


class Rates(Frozen):
    """What the time of a block means. `tflops` and `mfu` are of the model's work, `hfu` of the executed; each is None
    where its rows are not known, and a fraction also where no peak is published for the device."""

    version: str
    model_flops: int | None
    executed_flops: int | None
    tflops: float | None
    tflops_per_device: float | None
    mfu: float | None
    tflops_executed: float | None
    hfu: float | None
    tokens_per_s: float
    ici_bytes_per_device: float | None
    bytes_per_token_strict: int
    bw_gibps_strict: float


class RoutingRates(Frozen):
    """What the time of a micro-benchmark of routing means. No bytes where no token is moved."""

    version: str
    tokens_per_s: float
    bytes_per_token_strict: int | None
    bw_gibps_strict: float | None


def fixed_rows(job: MoeBlockJob) -> Rows:
    """The rows that a job's fields decide, whatever its routing turns out to be."""
    real = {0.0: job.tokens * job.topk, 1.0: 0}.get(job.null_route_frac)
    # no expert is given more assignments than there are tokens
    drops = job.capacity is not None and job.capacity < job.tokens
    model = None if drops and real else real
    if job.parallel_mode == "ref_dp":
        return Rows(model, job.tokens * job.experts)
    if job.capacity_policy == "pad" and job.capacity is not None:
        return Rows(model, job.experts * job.capacity)
    return Rows(model, real)


def model_flops(job: MoeBlockJob, rows: int) -> int:
    """Floating-point operations of one call on so many rows, a multiply-add counted as two.

    Three matmuls of hidden x mlp_dim a row, 2 FLOP each: 6 hidden mlp_dim rows, and 6 hidden shared_expert_dim for each
    token; x 3 for forward_backward.
    """
    return PASSES[job.bench_pass] * (_routed_flops(job, rows) + _shared_flops(job))


def executed_flops(job: MoeBlockJob, rows: int) -> int:
    """As `model_flops`, but that the routed part counts x 4 where `remat_mode` computes it again."""
    passes = PASSES[job.bench_pass]
    again = passes > 1 and job.remat_mode == "expert_mlp"
    return (REMATERIALISED if again else passes) * _routed_flops(job, rows) + passes * _shared_flops(job)


def bytes_per_token_strict(job: MoeBlockJob) -> int:
    """Bytes that packing and combining must move for a token: (2 + 2 topk) hidden b (routing bench, DESIGN §9a)."""
    return (2 + 2 * job.topk) * job.hidden * BYTES[job.dtype]


def ici_bytes_per_device(job: MoeBlockJob, rows: Rows, devices: int) -> float | None:
    """Bytes that each of p devices sends to the others in one call. None where that depends on rows not known.

    ep, ep_dense, ep_ring: 2 (p - 1) / p tokens hidden b, an all-reduce or an all-gather and a reduce-scatter of all
    tokens. ep_a2a: 2 (p - 1) / p (rows / p) hidden b, its real rows there and back, spread evenly. x 2 with backward.
    """
    match job.parallel_mode:
        case "none" | "ref_dp" | "staged_dp":
            return 0.0
        case "ep_dense" | "ep" | "ep_ring":
            moved: float = job.tokens
        case "ep_a2a":
            # dropped rows travel, those of padding do not
            real = job.tokens * job.topk if not job.null_route_frac else rows.executed
            if real is None or (job.null_route_frac and job.capacity_policy == "pad"):
                return None
            # there int8 rows travel with their scales, back rows of the dtype
            if job.quant_mode in ROUTED_INT8:
                return None
            moved = real / devices
        case "fused_ep":
            return None
    legs = 4 if job.bench_pass == "forward_backward" else 2
    return legs * (devices - 1) / devices * moved * job.hidden * BYTES[job.dtype]


def rates(job: MoeBlockJob, seconds: float, devices: int, device_kind: str, counted: Rows = NOT_COUNTED) -> Rates:
    """The rates of one call that took `seconds` on `devices` devices of a kind (`jax.Device.device_kind`).

    `counted` are the rows that a run found; what it does not say is taken from `fixed_rows`. `tflops` are 1e12 FLOP/s
    of all devices together; `mfu` and `hfu` are fractions of the devices' bf16 peaks, whatever the dtype, int8 too;
    `tokens_per_s` counts every token; `bw_gibps_strict` is in 2^30 bytes/s. Raises ValueError for a time or a count not
    above 0.
    """
    _check(seconds, devices)
    fixed = fixed_rows(job)
    rows = Rows(*(fixed[i] if found is None else found for i, found in enumerate(counted)))
    model = None if rows.model is None else model_flops(job, rows.model)
    executed = None if rows.executed is None else executed_flops(job, rows.executed)
    chip = chip_of(device_kind)
    peak = None if chip is None else chip.bf16_flops_s * devices
    strict = bytes_per_token_strict(job)
    tflops = _per(model, seconds * 1e12)
    return Rates(
        version=VERSION,
        model_flops=model,
        executed_flops=executed,
        tflops=tflops,
        tflops_per_device=_per(tflops, devices),
        mfu=_per(model, peak and peak * seconds),
        tflops_executed=_per(executed, seconds * 1e12),
        hfu=_per(executed, peak and peak * seconds),
        tokens_per_s=job.tokens / seconds,
        ici_bytes_per_device=ici_bytes_per_device(job, rows, devices),
        bytes_per_token_strict=strict,
        bw_gibps_strict=strict * job.tokens / seconds / 2**30,
    )


def routing_rates(
    job: TopkJob | RoutingJob | PackJob | PackOnlyJob | CombineOnlyJob | MoeLayerJob | CapacityJob, seconds: float
) -> RoutingRates:
    """The rates of one call of a micro-benchmark that took `seconds`. Raises ValueError for a time not above 0.

    Strict bytes of a token: (2 + 2 topk) hidden b for the way there and back, half of it for one of the two.
    """
    _check(seconds, 1)
    match job:
        case TopkJob():
            strict = None
        case PackOnlyJob() | CombineOnlyJob():
            strict = (1 + job.topk) * job.hidden * BYTES[job.dtype]
        case _:
            strict = (2 + 2 * job.topk) * job.hidden * BYTES[job.dtype]
    return RoutingRates(
        version=ROUTING_VERSION,
        tokens_per_s=job.tokens / seconds,
        bytes_per_token_strict=strict,
        bw_gibps_strict=None if strict is None else strict * job.tokens / seconds / 2**30,
    )


def _routed_flops(job: MoeBlockJob, rows: int) -> int:
    return 6 * job.hidden * job.mlp_dim * rows


def _shared_flops(job: MoeBlockJob) -> int:
    return 6 * job.hidden * job.shared_expert_dim * job.tokens


def _per(amount: float | None, unit: float | None) -> float | None:
    return None if amount is None or unit is None else amount / unit


def _check(seconds: float, devices: int) -> None:
    if not (seconds > 0 and devices > 0):
        raise ValueError(f"no rates from {seconds} s on {devices} devices: both must be above 0")
