"""The devices a process measures on: claimed once, asserted to be the ones asked for, and asked how full they are."""

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
    platform = devices[0].platform
    if platform != STARTED_AS[target.platform] or len(devices) != target.devices:
        raise WrongDevice(
            f"the visit asks for {target.devices} {target.platform.value} devices, JAX shows {len(devices)} {platform}"
        )
    return {
        "platform": target.platform.value,
        "device_kind": devices[0].device_kind,
        "device_count": str(len(devices)),
        "jax": jax.__version__,
        "jaxlib": installed("jaxlib"),
        "libtpu": installed("libtpu"),
    }


def bytes_in_use() -> int:
    """Bytes of arrays on all local devices: what they report, or the live arrays where they report nothing (CPU)."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return sum(int(each["bytes_in_use"]) for each in stats)
    return sum(array.nbytes for array in jax.live_arrays())
