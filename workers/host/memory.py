"""Evidence that the kernel killed a process for want of memory. A signal 9 alone does not say who sent it.

Two places tell: the memory cgroup counts its kills, and the kernel's log names the pid. Both are looked at before the
process starts and after its death; what is older than the first look is no evidence. A place that does not exist here,
or may not be read, says nothing.
"""

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

KERNEL_LOG = Path("/dev/kmsg")

# "Memory cgroup out of memory: Killed process 77 (python) total-vm: ..." and the same without a cgroup: mm/oom_kill.c
_KILLED = re.compile(r"out of memory.*: Killed process (\d+) \((.*?)\).*", re.IGNORECASE)
# The kernel logs the pids of its first pid namespace, which always has this number: include/linux/proc_ns.h
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
# A record is at most this long: CONSOLE_EXT_LOG_MAX in kernel/printk/internal.h
_RECORD_BYTES = 8192


def counter(proc: Path = Path("/proc/self")) -> Path | None:
    """The file with `oom_kill N` of the memory cgroup that a process is in, of either version. None: there is none.

    `proc`: the process' directory. Children are born in the cgroup of their parent.
    """
    memberships: dict[str, PurePosixPath] = {}  # version 2 has no controllers in this place
    for line in (proc / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            memberships[controller] = PurePosixPath(path)
    for line in (proc / "mountinfo").read_text().splitlines():
        # proc_pid_mountinfo(5): ID parent device root mount-point options [tags] - type source super-options
        left, _, right = line.partition(" - ")
        root, mount = left.split()[3:5]
        kind, _, options = right.split()[:3]
        for version, controller, name in (("cgroup2", "", "memory.events"), ("cgroup", "memory", "memory.oom_control")):
            is_it = kind == version and (not controller or controller in options.split(","))
            member = memberships.get(controller)
            if is_it and member is not None and member.is_relative_to(root):
                file = Path(mount) / member.relative_to(root) / name
                if file.exists():
                    return file
    return None


def kills(file: Path) -> int:
    """How many processes of a cgroup the kernel has killed. Raises OSError."""
    fields = dict(line.split() for line in file.read_text().splitlines())
    return int(fields.get("oom_kill", 0))


class OomWatch:
    """Looks twice: at its making, before the process is started, and at `evidence`. Reads files, which may block."""

    def __init__(self, kernel_log: Path = KERNEL_LOG, proc: Path = Path("/proc/self")) -> None:
        self._log: int | None = None
        self._counter: Path | None = None
        self._before = 0
        with suppress(OSError):
            self._counter = counter(proc)
            if self._counter is not None:
                self._before = kills(self._counter)
        with suppress(OSError):
            if os.readlink(proc / "ns" / "pid") == _FIRST_PID_NAMESPACE:  # noqa: PTH115 - it links to no path
                self._log = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK)
                os.lseek(self._log, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._log is not None:
            os.close(self._log)

    def evidence(self, pid: int) -> str:
        """What shows that the kernel killed `pid`, which died of signal 9; "" when nothing does. Asked once."""
        return self._logged(pid) or self._counted()

    def _counted(self) -> str:
        if self._counter is None:
            return ""
        with suppress(OSError):
            grown = kills(self._counter) - self._before
            if grown > 0:
                return f"{self._counter} counts {grown} more oom_kill than before the runner began"
        return ""

    def _logged(self, pid: int) -> str:
        for record in self._records():
            found = _KILLED.search(record)
            if found and int(found[1]) == pid:
                return f"the kernel's log: {found[0]}"
        return ""

    def _records(self) -> list[str]:
        """The kernel's log since the watch began, a read a record."""
        records: list[str] = []
        with suppress(BlockingIOError):  # there is no more yet
            while self._log is not None and (record := self._read(self._log)) is not None:
                records.append(record)
        return records

    @staticmethod
    def _read(log: int) -> str | None:
        with suppress(BrokenPipeError):  # the log went round, and took some with it
            return os.read(log, _RECORD_BYTES).decode(errors="replace") or None
        return ""
