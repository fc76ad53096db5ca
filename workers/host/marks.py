"""By what a host knows its own processes again: the mark every runner carries, and the record beside it.

The mark is an environment variable that names the record's path, so everything a runner starts has it too, a grandchild
in a session of its own included, and no other state directory's processes do. The record says who the runner and its
actor are; it is written right after the fork and removed when the runner's group is gone. A marked process is *live*
while the runner and the actor of its record are, else it is stale: whoever was to end it is gone, or has given it up.
Pids of another container say nothing here: what it started is not ours.
"""

import json
import os
import uuid
from contextlib import suppress
from enum import Enum
from pathlib import Path

from workers.host.process import Identity, identify, is_alive

NAME = "HILLCLIMB_RUNNER"


def _here() -> str:
    """Where and for how long a pid and a start time name a process: this boot, this PID namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


class Whose(Enum):
    """Who a holder belongs to. Its mark tells the first three apart; what an attempt to end it, or to start the chips
    that it holds, came to tells the others."""

    STALE = "ours and stale"
    LIVE = "ours and live"
    FOREIGN = "foreign"
    UNKILLABLE = "unkillable"
    INVISIBLE = "invisible"


class Marks:
    """The marks of one state directory; their records lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()

    def new(self) -> dict[str, str]:
        """What the environment of a process to be started must have beside all else."""
        return {NAME: str(self._folder / f"{uuid.uuid4().hex}.json")}

    def record(self, mark: dict[str, str], runner: Identity) -> None:
        """`runner` was started with `mark` by this process."""
        me = identify(os.getpid())
        assert me is not None
        # On a full disk it stays away: the runner counts as stale to the next actor, which cannot have the host before
        # this one is gone.
        with suppress(OSError):
            Path(mark[NAME]).write_text(json.dumps({"where": _here(), "runner": runner, "actor": me}))

    def give_up(self, mark: dict[str, str], runner: Identity) -> None:
        """The runner survives SIGKILL: this process has done what it can."""
        with suppress(OSError):
            Path(mark[NAME]).write_text(json.dumps({"where": _here(), "runner": runner, "actor": None}))

    def given_up(self) -> list[Identity]:
        """The runners of this host that survived SIGKILL and are there yet."""
        found = []
        for record in self._folder.iterdir():
            with suppress(OSError, ValueError):  # removed meanwhile, or cut short
                said = json.loads(record.read_text())
                if said["actor"] is None and said["where"] == _here():
                    found.append(Identity(*said["runner"]))
        return [runner for runner in found if is_alive(runner)]

    def forget(self, mark: dict[str, str]) -> None:
        """The runner's group is gone."""
        with suppress(OSError):
            Path(mark[NAME]).unlink()

    def forget_all(self) -> None:
        """No runner of this host lives: the caller has just taken its lock."""
        for record in self._folder.iterdir():
            with suppress(OSError):  # a runner that ends now forgets itself
                record.unlink()

    def whose(self, pid: int) -> Whose:
        """Who the process that has `pid` belongs to. One whose environment cannot be read is not ours."""
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return Whose.FOREIGN
        prefix = f"{NAME}=".encode()
        for variable in environ.split(b"\0"):
            if variable.startswith(prefix):
                record = Path(os.fsdecode(variable.removeprefix(prefix)))
                if record.parent == self._folder:
                    return _judge(record)
        return Whose.FOREIGN


def _judge(record: Path) -> Whose:
    try:
        said = json.loads(record.read_text())
    except (OSError, ValueError):  # removed, or cut short by the end of the actor that wrote it
        return Whose.STALE
    if said["where"] != _here():
        return Whose.FOREIGN
    lives = all(said[who] is not None and is_alive(Identity(*said[who])) for who in ("runner", "actor"))
    return Whose.LIVE if lives else Whose.STALE
