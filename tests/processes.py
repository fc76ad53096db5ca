"""Real processes in tests: waited for with a deadline, found in /proc, ended with all they started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def wait_until(true: Callable[[], object], seconds: float = 60.0, what: str = "the condition") -> None:
    """Waits on a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def last_until(moment: float) -> None:
    """A fault lasts until then, on the clock `time.monotonic`. For nothing else: it waits on no condition."""
    time.sleep(max(0.0, moment - time.monotonic()))


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command: state, parent, group, session … Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent(pid: int) -> int:
    return int(stat(pid)[1])


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_gone(pid: int) -> bool:
    try:
        return stat(pid)[0] in "ZX"
    except OSError:
        return True


def session_of(leader: int) -> list[int]:
    """The live processes of a session."""
    members = []
    for pid in _pids():
        try:
            fields = stat(pid)
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            members.append(pid)
    return members


def end_session(process: subprocess.Popen[str]) -> None:
    """Ends a process started with start_new_session, and everything it left in its session."""
    for pid in session_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def children(pid: int, command: str) -> list[int]:
    """Its child processes whose command line holds `command`."""
    found = []
    for child in _pids():
        try:
            if parent(child) == pid and command in Path(f"/proc/{child}/cmdline").read_text().replace("\0", " "):
                found.append(child)
        except OSError:
            continue
    return found


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
