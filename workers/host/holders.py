"""Who has a host's TPU chips: the processes with an open descriptor of their vfio groups, or libtpu's lock.

Read-only. Processes of another user are seen by root alone, and those of another container perhaps by nobody: an empty
answer is what can be seen, not proof. A chip that is held by nobody to be seen shows only when one tries to start it
(`workers.host.trial`).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from workers.host import lockfile
from workers.host.marks import Marks, Whose
from workers.host.process import Identity, identify

# The PCI vendor id of Google. Network cards are handed to vfio, too.
GOOGLE = "0x1ae0"


@dataclass(frozen=True)
class Places:
    """Where a host has its chips and libtpu its lock."""

    vfio: Path = Path("/dev/vfio")
    groups: Path = Path("/sys/kernel/iommu_groups")
    accel: str = "/dev/accel"  # and a number: TPU runtimes before vfio
    lockfile: Path = Path("/tmp/libtpu_lockfile")

    def is_chip(self, opened: str) -> bool:
        """Whether an open file of this name is a TPU: a vfio group of Google's, or any where sysfs knows no groups.

        The control node /dev/vfio/vfio is opened by users of other devices as well.
        """
        if opened.startswith(self.accel):
            return opened.removeprefix(self.accel).isdigit()
        folder, name = os.path.split(opened)
        if folder != str(self.vfio) or not name.isdigit():
            return False
        try:
            vendors = {vendor.read_text().strip() for vendor in self.groups.glob(f"{name}/devices/*/vendor")}
            return GOOGLE in vendors or not any(self.groups.iterdir())
        except FileNotFoundError:
            return True


HERE = Places()


class Holder(NamedTuple):
    """A process and one thing it holds."""

    identity: Identity
    uid: int
    command: str
    device: str
    whose: Whose

    def __str__(self) -> str:
        who = f"pid {self.identity.pid} (uid {self.uid}, {self.whose.value})"
        return f"{self.device} is held by {who}: {self.command[:200]}"


def summary(found: list[Holder]) -> str:
    """The first of them, and how many more there are; "" when there is none."""
    if not found:
        return ""
    return f"{found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''}"


def _links(process: Path) -> Iterator[Path]:
    """The descriptors of a process. Those of a leader that its threads have outlived show in the threads alone."""
    own = list((process / "fd").iterdir())
    yield from own or process.glob("task/*/fd/*")


def _uid(process: Path) -> int:
    """Its real user. The owner of its folder in /proc is root for a process that changed its user."""
    (line,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def _command(process: Path) -> str:
    """On one line. A process that is on its way out has its short name alone."""
    said = (process / "cmdline").read_bytes() or (process / "comm").read_bytes()
    return " ".join(said.replace(b"\0", b" ").decode(errors="replace").split())


def openers(pid: int, wanted: Callable[[str], bool]) -> set[str]:
    """Which of the `wanted` paths a process has open. Raises OSError when it cannot be seen."""
    found = set()
    for link in _links(Path("/proc") / str(pid)):
        try:
            target = os.readlink(link)  # noqa: PTH115 - Path.readlink would normalise "... (deleted)"
        except FileNotFoundError:
            continue
        target = target.removesuffix(" (deleted)")
        if wanted(target):
            found.add(target)
    return found


def everyone() -> Iterator[int]:
    """The pids of all processes that can be seen."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def holders(places: Places, marks: Marks) -> list[Holder]:
    """Who has the chips or libtpu's lock, by pid. Blocking: walks /proc."""
    found = []
    locker = lockfile.holder(places.lockfile)
    for pid in everyone():
        try:
            identity = identify(pid)  # first: what is seen of a later process with this pid is then nobody's
            devices = openers(pid, places.is_chip)
            if pid == locker:
                devices.add(str(places.lockfile))
            if devices and identity is not None:
                process = Path("/proc") / str(pid)
                uid, command, whose = _uid(process), _command(process), marks.whose(pid)
                found += [Holder(identity, uid, command, device, whose) for device in sorted(devices)]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return sorted(found, key=lambda holder: (holder.identity.pid, holder.device))
