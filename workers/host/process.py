"""Who a process is on its host, and the end of a runner that outlived its actor.

A pid alone is no identity: it is reused. With the start time of /proc/PID/stat it is one until the next boot, and no
process is signalled here unless both agree.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# A killed process is gone within milliseconds unless it sits in the kernel (state D): then waiting does not help.
GONE_S = 10.0
# A look at /proc takes some milliseconds.
POLL_S = 0.02


class Identity(NamedTuple):
    """A process on its host. `start_time` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    start_time: int


class _Stat(NamedTuple):
    state: str
    group: int
    session: int
    threads: int
    start_time: int

    @property
    def lives(self) -> bool:
        """A zombie does not, unless it is a leader that other threads of its process have outlived: KILL does that to
        a process with a thread that sits in a driver, and its descriptors stay open."""
        return self.state not in "ZX" or self.threads > 1


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may hold spaces and parentheses: the fields count from the last ")".
    fields = text.rpartition(")")[2].split()
    group, session, threads, start_time = (int(fields[number]) for number in (2, 3, 17, 19))
    return _Stat(fields[0], group, session, threads, start_time)


def identify(pid: int) -> Identity | None:
    """The identity of the process that has `pid` now, or None when there is none."""
    stat = _stat(pid)
    return None if stat is None else Identity(pid, stat.start_time)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still executes, or sits in the kernel with its descriptors open."""
    stat = _stat(identity.pid)
    return stat is not None and stat.start_time == identity.start_time and stat.lives


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal this very process, and never one that was given its pid since. Raises PermissionError."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor is of whoever has the pid now; from here on it stays with that one.
        if identify(identity.pid) == identity:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def end_by(number: signal.Signals, processes: Iterable[Identity], within_s: float) -> list[Identity]:
    """Signal these and wait until they are gone. Returns those that are not, or may not be signalled. Blocking."""
    left = list(processes)
    for identity in left:
        with suppress(PermissionError):
            send(identity, number)
    deadline = time.monotonic() + within_s
    left = [identity for identity in left if is_alive(identity)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [identity for identity in left if is_alive(identity)]
    return left


def survivors(leader: Identity) -> list[Identity]:
    """The living processes of the session and group that `leader` began, itself included.

    A pid is not given away while a group bears its number, so a member that is not older than the leader is its child.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if stat is None or not stat.lives:
            continue
        is_member = (stat.group, stat.session) == (leader.pid, leader.pid) and stat.start_time >= leader.start_time
        is_leader = pid != leader.pid or stat.start_time == leader.start_time
        if is_member and is_leader:
            found.append(Identity(pid, stat.start_time))
    return found


def end_survivors(leader: Identity) -> list[Identity]:
    """SIGKILL what is left of a dead actor's runner and wait until it is gone. Returns those that would not go."""
    deadline = time.monotonic() + GONE_S
    while (left := survivors(leader)) and time.monotonic() < deadline:
        for identity in left:
            send(identity, signal.SIGKILL)
        time.sleep(POLL_S)
    return left


def stuck(identity: Identity) -> str:
    """What a process that survives SIGKILL is doing, for a person. Each thread that is left is told of."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in sorted(Path(f"/proc/{identity.pid}/task").iterdir()):
            state = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            where = (thread / "wchan").read_text() if state == "D" else ""
            found.append(f"thread {thread.name} in state {state}" + (f" in {where}" if where.strip("0") else ""))
    threads = ", ".join(found) or "no thread to be seen"
    return f"runner {identity.pid} survives SIGKILL ({threads}): restart the host if it stays"
