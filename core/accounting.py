"""Rates of a job from its time: versioned formulas, so that a stored number says how it was derived.

The formulas are those of DESIGN §9a as far as the job has the fields. `model` counts the work the mathematics asks
for, `executed` the rows that the grouped matmuls are told of; padding inside a kernel is neither.
"""

from typing import Final

from core.hardware import chip_of
from core.job import MoeBlockJob
from core.model import Frozen

# Stored beside every derived number; grows with any change that moves one.
VERSION: Final = "moe/1"

# A backward pass is two matmuls of the forward's size for each of its matmuls: one for x, one for the weights.
PASSES = {"forward": 1, "forward_backward": 3}
BYTES = {"bfloat16": 2, "float32": 4}


class Rates(Frozen):
    """What a time means. None where no peak is published for the device."""

    version: str
    model_flops: int
    executed_flops: int
    tflops: float
    tflops_per_device: float
    mfu: float | None
    tflops_executed: float
    hfu: float | None
    tokens_per_s: float
    bytes_per_token_strict: int
    bw_gibps_strict: float


def model_rows(job: MoeBlockJob) -> int:
    """Assignments that reach the output: tokens x topk, none being null or dropped yet."""
    return job.tokens * job.topk


def executed_rows(job: MoeBlockJob) -> int:
    """Rows inside `group_sizes`: tokens x topk, no capacity policy padding them yet."""
    return job.tokens * job.topk


def flops(job: MoeBlockJob, rows: int) -> int:
    """Floating-point operations of one call on so many rows, a multiply-add counted as two.

    Three matmuls of hidden x mlp_dim a row, 2 FLOP each: 6 hidden mlp_dim rows; x 3 for forward_backward (DESIGN §9a).
    """
    return 6 * job.hidden * job.mlp_dim * rows * PASSES[job.bench_pass]


def bytes_per_token_strict(job: MoeBlockJob) -> int:
    """Bytes that packing and combining must move for a token: (2 + 2 topk) hidden b (routing bench, DESIGN §9a)."""
    return (2 + 2 * job.topk) * job.hidden * BYTES[job.dtype]


def rates(job: MoeBlockJob, seconds: float, devices: int, device_kind: str) -> Rates:
    """The rates of one call that took `seconds` on `devices` devices of a kind (`jax.Device.device_kind`).

    `tflops` are 1e12 model FLOP/s of all devices together; `mfu` and `hfu` are fractions of the devices' bf16 peaks,
    whatever the dtype; `bw_gibps_strict` is in 2^30 bytes/s. Raises ValueError for a time or a count not above 0.
    """
    if not (seconds > 0 and devices > 0):
        raise ValueError(f"no rates from {seconds} s on {devices} devices: both must be above 0")
    chip = chip_of(device_kind)
    model, executed = flops(job, model_rows(job)), flops(job, executed_rows(job))
    peak = None if chip is None else chip.bf16_flops_s * devices
    strict = bytes_per_token_strict(job)
    return Rates(
        version=VERSION,
        model_flops=model,
        executed_flops=executed,
        tflops=model / seconds / 1e12,
        tflops_per_device=model / seconds / 1e12 / devices,
        mfu=None if peak is None else model / seconds / peak,
        tflops_executed=executed / seconds / 1e12,
        hfu=None if peak is None else executed / seconds / peak,
        tokens_per_s=job.tokens / seconds,
        bytes_per_token_strict=strict,
        bw_gibps_strict=strict * job.tokens / seconds / 2**30,
    )
