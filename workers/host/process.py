"""Who a process is on its host, and the end of a runner that outlived its actor.

A pid alone is no identity: it is reused. With the start time of /proc/PID/stat it is one until the next boot, and no
process is signalled here unless both agree.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# A killed process is gone within milliseconds unless it sits in the kernel (state D): then waiting does not help.
GONE_S = 10.0


class Identity(NamedTuple):
    """A process on its host. `start_time` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    start_time: int


class _Stat(NamedTuple):
    state: str
    group: int
    session: int
    start_time: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may hold spaces and parentheses: the fields count from the last ")".
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], group=int(fields[2]), session=int(fields[3]), start_time=int(fields[19]))


def identify(pid: int) -> Identity | None:
    """The identity of the process that has `pid` now, or None when there is none."""
    stat = _stat(pid)
    return None if stat is None else Identity(pid, stat.start_time)


def is_alive(identity: Identity) -> bool:
    """Whether this very process still executes. A zombie does not: its descriptors are closed."""
    stat = _stat(identity.pid)
    return stat is not None and stat.start_time == identity.start_time and stat.state not in "ZX"


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
        if stat is None or stat.state in "ZX":
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
            with suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGKILL)
        time.sleep(0.01)
    return left
