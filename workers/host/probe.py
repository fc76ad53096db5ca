"""The probe: a read-only look at a host, before every runner. Only a clean host runs one.

On a TPU host a group that is open in another process is busy: the kernel refuses the second open. Whether all chips are
there is asserted by the runner, which alone may open them.
"""

from pathlib import Path

from core.events import Probed
from core.failures import Kind
from core.visit import Platform, Target
from workers.host import disk, lockfile
from workers.host.holders import Places, holders, summary
from workers.host.marks import Marks
from workers.host.process import stuck


def probe(target: Target, state: Path, places: Places, marks: Marks) -> Probed:
    """Look at the disk below `state`, for a runner that survived SIGKILL, and on a TPU host at who has its chips.

    Blocking: walks /proc.
    """
    reason, free_bytes = disk.complaint(state)
    kind = Kind.DISK if reason else None
    if kind is None and (left := marks.given_up()):
        reason, kind = stuck(left[0]), Kind.TPU_BUSY
    if kind is None and target.platform is Platform.TPU:
        reason = summary(holders(places, marks)) or lockfile.obstacle(places.lockfile)
        kind = Kind.TPU_BUSY if reason else None
    return Probed(clean=kind is None, kind=kind, reason=reason, free_disk_bytes=free_bytes)
