"""Chips and their published peaks, each with its source.

A peak is what a vendor prints, dense (no structured sparsity), for one JAX device: a whole TPU chip from v4 on, a
whole GPU. What is not published is not here: a CPU has no peak, so nothing is a fraction of it.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator. FLOP/s and OP/s are dense peaks; `interconnect_bytes_s` counts both directions, all links."""

    name: str
    device_kinds: tuple[str, ...]  # what JAX calls it
    bf16_flops_s: float
    int8_ops_s: float
    hbm_bytes: int
    hbm_bytes_s: float
    interconnect: str
    interconnect_bytes_s: float
    source: str


CHIPS: tuple[Chip, ...] = (
    Chip(
        name="TPU v4",
        device_kinds=("TPU v4",),
        bf16_flops_s=275e12,
        int8_ops_s=275e12,
        hbm_bytes=32 * GIB,
        hbm_bytes_s=1.2e12,
        interconnect="ICI, 3D torus",
        interconnect_bytes_s=600e9,
        source="cloud.google.com/tpu/docs/v4: 275 TFLOPS bf16 or int8, 32 GiB, 1200 GBps; ICI: Jouppi et al., "
        "'TPU v4' (ISCA 2023), 6 links of 50 GB/s a direction",
    ),
    Chip(
        name="TPU v5e",
        device_kinds=("TPU v5 lite", "TPU v5e"),
        bf16_flops_s=197e12,
        int8_ops_s=393e12,
        hbm_bytes=16 * GIB,
        hbm_bytes_s=819e9,
        interconnect="ICI, 2D torus",
        interconnect_bytes_s=400e9,
        source="cloud.google.com/tpu/docs/v5e: 197 TFLOPS bf16, 393 TOPS int8, 16 GB, 819 GBps, ICI 400 GBps "
        "bidirectional",
    ),
    Chip(
        name="TPU v5p",
        device_kinds=("TPU v5", "TPU v5p"),
        bf16_flops_s=459e12,
        int8_ops_s=918e12,
        hbm_bytes=95 * GIB,
        hbm_bytes_s=2.765e12,
        interconnect="ICI, 3D torus",
        interconnect_bytes_s=1.2e12,
        source="cloud.google.com/tpu/docs/v5p: 459 TFLOPS bf16, 95 GiB, 2765 GBps, ICI 1200 GBps bidirectional; "
        "918 TOPS int8: Google Cloud blog, 'Introducing Cloud TPU v5p and AI Hypercomputer' (2023-12-06)",
    ),
    Chip(
        name="TPU v6e",
        device_kinds=("TPU v6 lite", "TPU v6e"),
        bf16_flops_s=918e12,
        int8_ops_s=1836e12,
        hbm_bytes=32 * GIB,
        hbm_bytes_s=1.6e12,
        interconnect="ICI, 2D torus",
        interconnect_bytes_s=800e9,
        source="cloud.google.com/tpu/docs/v6e: 918 TFLOPS bf16, 1836 TOPS int8, 32 GB, 1600 GBps, ICI 800 GBps "
        "bidirectional",
    ),
    Chip(
        name="H100 SXM",
        device_kinds=("NVIDIA H100 80GB HBM3",),
        bf16_flops_s=989.5e12,
        int8_ops_s=1979e12,
        hbm_bytes=80 * 10**9,
        hbm_bytes_s=3.35e12,
        interconnect="NVLink 4",
        interconnect_bytes_s=900e9,
        source="NVIDIA H100 datasheet, SXM: 1979 TFLOPS bf16 and 3958 TOPS int8 with sparsity, twice the dense peaks; "
        "80 GB, 3.35 TB/s, NVLink 900 GB/s",
    ),
    Chip(
        name="H200",
        device_kinds=("NVIDIA H200",),
        bf16_flops_s=989.5e12,
        int8_ops_s=1979e12,
        hbm_bytes=141 * 10**9,
        hbm_bytes_s=4.8e12,
        interconnect="NVLink 4",
        interconnect_bytes_s=900e9,
        source="NVIDIA H200 datasheet, SXM: 1979 TFLOPS bf16 and 3958 TOPS int8 with sparsity, twice the dense peaks; "
        "141 GB, 4.8 TB/s, NVLink 900 GB/s",
    ),
)

_BY_KIND = {kind: chip for chip in CHIPS for kind in chip.device_kinds}


def chip_of(device_kind: str) -> Chip | None:
    """The chip JAX calls `device_kind` (`jax.Device.device_kind`); None for a CPU, as for any other not here."""
    return _BY_KIND.get(device_kind)
