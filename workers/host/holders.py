"""Who has a vfio group open: the processes whose descriptors link into /dev/vfio.

Read-only. Processes of another user are seen by root alone, and those of another container perhaps by nobody: an empty
answer is what can be seen, not proof.
"""

import os
from pathlib import Path
from typing import NamedTuple

VFIO = "/dev/vfio/"


class Holder(NamedTuple):
    pid: int
    uid: int
    command: str
    device: str


def _devices(process: Path, prefix: str) -> set[str]:
    devices = set()
    for link in (process / "fd").iterdir():
        try:
            target = os.readlink(link)  # noqa: PTH115 - Path.readlink would normalise "... (deleted)"
        except OSError:
            continue
        if target.startswith(prefix):
            devices.add(target)
    return devices


def holders(prefix: str = VFIO) -> list[Holder]:
    """The processes with a descriptor below `prefix`, by pid."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            devices = _devices(process, prefix)
            if devices:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                uid = process.stat().st_uid
                found += [Holder(int(process.name), uid, command, device) for device in sorted(devices)]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return sorted(found)
