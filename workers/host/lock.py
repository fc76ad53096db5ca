"""The host's lock: at most one actor and its runner, by one `flock`.

The runner inherits the descriptor, and an `flock` belongs to the open file and not to a process: the lock is free when
the last of the two is gone. So it is released by closing, never by LOCK_UN, which would take it from a runner too. The
file is never unlinked: that would make two owners. Its content is for people; only the lock counts.
"""

import fcntl
import json
import os
from pathlib import Path

from core.protocol import Controller, HostHeld


def held_by(controller: Controller, since: str) -> HostHeld:
    return HostHeld(user=controller.user, controller=f"{controller.machine}:{controller.pid}", since=since)


class HostLock:
    """The lock file at `path`. Not held at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """What a runner inherits. Raises RuntimeError when the lock is not held."""
        if self._descriptor is None:
            raise RuntimeError(f"{self._path} is not locked by this actor: no runner may start")
        return self._descriptor

    def acquire(self, controller: Controller, since: str) -> HostHeld | None:
        """Take the lock for `controller` without waiting. Returns who has it when it is taken."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except PermissionError:
            return self._holder()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return self._holder()
        os.ftruncate(descriptor, 0)
        os.write(descriptor, held_by(controller, since).model_dump_json().encode())
        self._descriptor = descriptor
        return None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _holder(self) -> HostHeld:
        try:
            return HostHeld.model_validate(json.loads(self._path.read_text()))
        except (OSError, ValueError):
            # Its owner is between locking and writing, or the file is not ours to read.
            return HostHeld(user="unknown", controller=f"the holder of {self._path}", since="unknown")
