"""The processes of a host: who is one, what belongs to what was started, and how it ends.

A pid alone is no identity: it is reused. With the start time of /proc/PID/stat it is one until the next boot, and
nothing is signalled here unless both agree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

POLL_S = 0.05
# A process that is killed is gone within milliseconds, unless it sits in the kernel: then waiting does not help.
KILL_S = 10.0
TOLD_LINES = 10
TOLD_CHARACTERS = 1000
# In the environment of what is started, and so of all it starts, whoever adopts them.
MARK = "HILLCLIMB_STARTED"


class Refused(Exception):
    """What was asked cannot be done: the sentence for a person."""


class Stat(NamedTuple):
    """Of /proc/PID/stat. `start_time` is in clock ticks since boot."""

    lives: bool
    parent: int
    session: int
    start_time: int


class Leader(NamedTuple):
    """What was started: the leader of a session of its own, the boot it lives in, and the mark all of it bears."""

    pid: int
    start_time: int
    boot: str
    mark: str

    @property
    def is_alive(self) -> bool:
        """This very process: not one that has its pid now."""
        seen = stat_of(self.pid) if self.boot == boot_id() else None
        return seen is not None and seen.lives and seen.start_time == self.start_time


def begin(
    argv: Sequence[str],
    env: Mapping[str, str],
    mark: str,
    umask: int,
    output: IO[bytes] | int,
    errors: IO[bytes] | int,
    first: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, `env` added to ours. `first` is called in the new process, before it
    becomes the program. Raises OSError when there is no such program, SubprocessError when `first` fails."""

    def prepare() -> None:
        if first is not None:
            first()
        os.umask(umask)

    return subprocess.Popen(
        list(argv),
        env={**os.environ, **env, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
        preexec_fn=prepare,  # we have one thread
    )


def last_words(said: str) -> str:
    """The end of a log or an output, on one line: it says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " | ".join(lines[-TOLD_LINES:])[-TOLD_CHARACTERS:] or "nothing was said"


def this() -> Leader:
    """Whoever calls."""
    seen = stat_of(os.getpid())
    assert seen is not None
    return Leader(os.getpid(), seen.start_time, boot_id(), "")


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def stat_of(pid: int) -> Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the command in parentheses may hold anything: the fields count from the last ")"
    fields = text.rpartition(")")[2].split()
    parent, session, threads, start_time = (int(fields[number]) for number in (1, 3, 17, 19))
    # a leader whose threads have outlived it is a zombie with all its files open
    return Stat(fields[0] not in "ZX" or threads > 1, parent, session, start_time)


def everyone() -> dict[int, Stat]:
    found = {}
    for entry in Path("/proc").iterdir():
        seen = stat_of(int(entry.name)) if entry.name.isdigit() else None
        if seen is not None:
            found[int(entry.name)] = seen
    return found


def told(pid: int, what: str) -> bytes:
    """A file of /proc/PID; b"" when it is gone, or another user's."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def members(leader: Leader) -> dict[int, int]:
    """What is alive of what was started: pids and their start times.

    That is its session, whatever bears its mark, and all their descendants. A session whose leader is gone is known by
    its mark alone: the number may be another's by now.
    """
    if leader.boot != boot_id():
        return {}
    processes = everyone()
    mark = f"{MARK}={leader.mark}".encode()
    found = {pid for pid in processes if mark in told(pid, "environ").split(b"\0")}
    session = {pid for pid, seen in processes.items() if seen.session == leader.pid}
    seen = processes.get(leader.pid)
    if (seen is not None and seen.start_time == leader.start_time) or session & found:
        found |= session
    grown = True
    while grown:
        children = {pid for pid, seen in processes.items() if seen.parent in found}
        grown = not children <= found
        found |= children
    return {pid: processes[pid].start_time for pid in found if processes[pid].lives and pid != os.getpid()}


def end(leader: Leader, grace_s: float) -> None:
    """TERM to all of it, KILL after `grace_s`, until nothing is left. Raises Refused with what will not go."""
    deadline = time.monotonic() + grace_s
    send(members(leader), signal.SIGTERM)
    while left := members(leader):
        if time.monotonic() > deadline + KILL_S:
            raise Refused(f"pids {', '.join(map(str, sorted(left)))} survive SIGKILL: restart the host if they stay")
        if time.monotonic() > deadline:
            send(left, signal.SIGKILL)
        time.sleep(POLL_S)


def send(processes: Mapping[int, int], number: signal.Signals) -> None:
    for pid, start_time in processes.items():
        seen = stat_of(pid)
        if seen is not None and seen.start_time == start_time:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
