"""What `accelerator = "…"` in a pool file means: the devices a runner on that host must find, by kind and number.

Only what lies in one machine has a meaning here: a visit is of one host. The numbers are JAX devices, which a runner
asserts; the names are the vendor's. Nothing here looks at a device.
"""

import re
from dataclasses import dataclass

from core.hardware import CHIPS
from core.visit import Platform, Target

# What JAX calls a chip first: the name libtpu reports. The others are those of older versions.
_KIND = {chip.name: chip.device_kinds[0] for chip in CHIPS}


@dataclass(frozen=True)
class _Slices:
    """The slices of a TPU generation that lie in one machine: the number in the type's name -> JAX devices."""

    kind: str
    devices: dict[int, int]
    source: str


_LITE = {1: 1, 4: 4, 8: 8}
_V5E = _Slices(
    _KIND["TPU v5e"],
    _LITE,
    "cloud.google.com/tpu/docs/v5e: the number counts chips, of one TensorCore each; v5litepod-1, -4 and -8 are one "
    "machine (ct5lp-hightpu-1t, -4t, -8t), v5litepod-16 is several",
)
_TPUS = {
    "v2": _Slices(
        "TPU v2",
        {8: 8},
        "cloud.google.com/tpu/docs/v2: the number counts TensorCores, 2 a chip, 4 chips a machine; each is a device",
    ),
    "v3": _Slices(
        "TPU v3", {8: 8}, "cloud.google.com/tpu/docs/v3: as v2; JAX's own tests of v3-8: 8 devices (jax pull 21242)"
    ),
    "v4": _Slices(
        _KIND["TPU v4"],
        {8: 4},
        "cloud.google.com/tpu/docs/v4: the number counts TensorCores, 2 a chip, 4 chips a machine; the two of a chip "
        "are one device ('megacore'): JAX's own tests of v4-8 have 4 (jax pull 21242)",
    ),
    "v5litepod": _V5E,
    "v5e": _V5E,
    "v5p": _Slices(
        _KIND["TPU v5p"],
        {8: 4},
        "cloud.google.com/tpu/docs/v5p: the number counts TensorCores, 2 a chip, 4 chips a machine (ct5p-hightpu-4t); "
        "the two of a chip are one device",
    ),
    "v6e": _Slices(
        _KIND["TPU v6e"],
        _LITE,
        "cloud.google.com/tpu/docs/v6e: the number counts chips, of one TensorCore each; v6e-1, -4 and -8 are one "
        "machine (ct6e-standard-1t, -4t, -8t), v6e-16 is several",
    ),
}

# Without a number: as many CPU devices as a visit emulates by default; one GPU.
_DEVICES = {Platform.CPU: Target().devices, Platform.CUDA: 1}
# As many as a local pool's hosts emulate. No machine has more GPUs: it is a digit too many.
_MOST = 64

_FORM = re.compile(r"([a-z0-9]+)(?:-([1-9][0-9]{0,5}))?")

KNOWN = (*(f"{name}-{size}" for name, slices in _TPUS.items() for size in slices.devices), "cuda", "cuda-8", "cpu")


def parse(text: str) -> Target:
    """`v5p-8`, `v6e-4`, `cuda-8`, `cpu` … -> what a runner there must find.

    Raises ValueError, which names the way out, for a name that is not known and for what spans machines.
    """
    match = _FORM.fullmatch(text)
    name, size = (match[1], int(match[2] or 0)) if match else ("", 0)
    if slices := _TPUS.get(name):
        if size in slices.devices:
            return Target(platform=Platform.TPU, devices=slices.devices[size], kind=slices.kind)
        there = " or ".join(f"{name}-{known}" for known in slices.devices)
        if size > max(slices.devices):
            raise ValueError(f"{text} spans several machines, and a visit runs on one: use {there}")
        raise ValueError(f"there is no {text}: write {there}")
    if name in _DEVICES and size <= _MOST:
        return Target(platform=Platform(name), devices=size or _DEVICES[Platform(name)])
    raise ValueError(f"{text!r} is no accelerator known here: write one of {', '.join(KNOWN)}")
