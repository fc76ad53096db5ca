"""The probe: a read-only look at a host, before every runner. Only a clean host runs one.

On a TPU host a group that is open in another process is busy: the kernel refuses the second open. Whether all chips are
there is asserted by the runner, which alone may open them.
"""

from pathlib import Path

from core.events import Probed
from core.failures import Kind
from core.visit import Platform, Target
from workers.host import disk
from workers.host.holders import VFIO, holders


def _busy(devices: str) -> str:
    found = holders(devices)
    if not found:
        return ""
    first = found[0]
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{first.device} is held by pid {first.pid} (uid {first.uid}): {first.command[:200]}{others}"


def probe(target: Target, state: Path, devices: str = VFIO) -> Probed:
    """Look at the disk below `state`, and on a TPU host at the holders of `devices`. Blocking: walks /proc."""
    reason, free_bytes = disk.complaint(state)
    kind = Kind.DISK if reason else None
    if kind is None and target.platform is Platform.TPU:
        reason = _busy(devices)
        kind = Kind.TPU_BUSY if reason else None
    return Probed(clean=kind is None, kind=kind, reason=reason, free_disk_bytes=free_bytes)
