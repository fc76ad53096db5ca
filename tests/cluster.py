"""A Ray cluster of real processes on this machine: a head that is no host, and one raylet for each host.

Every raylet carries our label and is a process of its own session, so that a host can be stopped, killed and brought
back while the others live. Nothing here is shared between two clusters: ports, token, state directory are the
cluster's own.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"


def wait_until(true: Callable[[], object], seconds: float = 60.0, what: str = "the condition") -> None:
    """Waits on a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command: state, parent, group, session, … Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def session_of(leader: int) -> list[int]:
    """The live processes of a session."""
    members = []
    for pid in pids():
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


def holder_of(path: Path) -> int | None:
    """The process that has `path` open, the eldest if there are several."""
    found = []
    for pid in pids():
        try:
            if any(os.path.samefile(link, path) for link in Path(f"/proc/{pid}/fd").iterdir()):
                found.append((int(stat(pid)[19]), pid))
        except OSError:
            continue
    return min(found)[1] if found else None


class Cluster:
    """Started by `up`; `pool` is the file that attaches to it."""

    def __init__(
        self,
        root: Path,
        address: str = LOOPBACK,
        settings: Mapping[str, str] | None = None,
        inside: Callable[[str], tuple[str, ...]] = lambda _: (),
    ) -> None:
        """`settings` go to every Ray process. `inside(host)`: the command prefix that puts it where it runs."""
        self._root = root
        self._inside = inside
        root.mkdir(parents=True, exist_ok=True)
        self.state = root / "state"
        token = root / "token"
        token.touch(mode=0o600)
        token.write_text("0123456789abcdef" * 4)
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._address = f"{address}:{probe.getsockname()[1]}"
        self._environment = (
            os.environ
            | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                "RAY_USAGE_STATS_ENABLED": "0",
                "RAY_worker_niceness": "0",
            }
            | dict(settings or {})
        )
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._logs: dict[str, Path] = {}
        self._token = token
        self.pool = self.pool_file()
