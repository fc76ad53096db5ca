"""What a host is, for a person who asks: versions, code and space, without starting an accelerator."""

import platform
from pathlib import Path

from core.code import code_hash
from core.visit import Target
from workers.bench.facts import cpu_model, installed
from workers.host import disk


def host_facts(target: Target, state: Path) -> dict[str, str]:
    """Blocking: hashes the code. `platform` and `devices` are what the pool says of the host, not what was found."""
    _, free_bytes = disk.complaint(state)
    return {
        "platform": target.platform.value,
        "devices": str(target.devices),
        "code": code_hash(),
        "python": platform.python_version(),
        "ray": installed("ray"),
        "jax": installed("jax"),
        "jaxlib": installed("jaxlib"),
        "libtpu": installed("libtpu"),
        "cpu": cpu_model(),
        "free_disk_bytes": str(free_bytes),
    }
