"""Process settings: the environment variables a measuring process runs under, from its very start.

A measurement says what it was set by: whatever steers XLA or JAX comes from the visit alone, never from the shell of
the person or the daemon that happened to start the process.
"""

from collections.abc import Mapping

from core.visit import Platform, Visit

# Everything XLA, JAX and libtpu read their settings from. Variables that describe the machine (TPU_*, CUDA_*) stay.
STEERING = ("JAX_", "XLA_", "LIBTPU_")


def process_settings(visit: Visit, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that runs `visit`, whose slots all have the same `env`.

    Idempotent: applied to its own result it changes nothing, so a process can tell whether it already runs under it.
    """
    chosen = visit.slots[0].job.env
    kept = {name: value for name, value in inherited.items() if not name.startswith(STEERING)}
    emulated = {}
    if visit.target.platform is Platform.CPU:
        flags = f"--xla_force_host_platform_device_count={visit.target.devices} {chosen.get('XLA_FLAGS', '')}"
        emulated = {"XLA_FLAGS": flags.strip()}
    return {**kept, **chosen, **emulated, "JAX_PLATFORMS": visit.target.platform.value}
