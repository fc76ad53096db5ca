"""The devices a process measures on: claimed once, asserted to be the ones asked for, and asked how full they are."""

from collections.abc import Sequence
from pathlib import Path

import jax

from core.visit import Platform, Target
from workers.bench.bench import WrongDevice
from workers.bench.facts import installed

# What JAX calls a platform once it has started it.
STARTED_AS = {Platform.CPU: "cpu", Platform.TPU: "tpu", Platform.CUDA: "gpu"}


def claim(target: Target, cache: Path | None) -> dict[str, str]:
    """Start JAX on `target` and return the facts of its devices; executables come from and go to `cache`.

    Raises WrongDevice when the platform does not start, or shows other devices than `target` names.
    """
    jax.config.update("jax_enable_compilation_cache", cache is not None)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:
        # a bare assertion is how JAX says that nothing installed knows the platform
        why = str(error) or "no JAX plugin for it is installed"
        raise WrongDevice(f"{target.platform.value} does not start: {why}") from error
    if refusal := _refusal(target, devices):
        raise WrongDevice(refusal)
    return {
        "platform": target.platform.value,
        "device_kind": devices[0].device_kind,
        "device_count": str(len(devices)),
        "jax": jax.__version__,
        "jaxlib": installed("jaxlib"),
        "libtpu": installed("libtpu"),
    }


def _refusal(target: Target, devices: Sequence[jax.Device]) -> str:
    """What is wrong with the devices that JAX started; "" when they are those of `target`."""
    platforms, kinds = ({getattr(device, name) for device in devices} for name in ("platform", "device_kind"))
    wanted = STARTED_AS[target.platform]
    if platforms == {STARTED_AS[Platform.CPU]} != {wanted}:
        return f"JAX fell back to the CPU, the visit asks for {target.devices} {target.platform.value} devices"
    if platforms != {wanted} or len(devices) != target.devices:
        shown = f"JAX shows {len(devices)} {'/'.join(sorted(platforms))}"
        return f"the visit asks for {target.devices} {target.platform.value} devices, {shown}"
    if target.kind and kinds != {target.kind}:
        return f"the visit asks for devices of kind {target.kind!r}, JAX shows {', '.join(map(repr, sorted(kinds)))}"
    return ""


def bytes_in_use() -> int:
    """Bytes of arrays on all local devices: what they report, or the live arrays where they report nothing (CPU)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return sum(int(each["bytes_in_use"]) for each in stats)
    return sum(array.nbytes for array in jax.live_arrays())
