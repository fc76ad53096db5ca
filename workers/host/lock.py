"""The host's lock: at most one actor and its runner, by one `flock`.

The runner inherits the descriptor, and an `flock` belongs to the open file and not to a process: the lock is free when
the last of the two is gone. So it is released by closing, never by LOCK_UN, which would take it from a runner too. The
file is never unlinked: that would make two owners. Its content is for people; only the lock counts.

Where several users share a machine the file is for all of them, and another user's words in it are not trusted.

What a dead actor's runner left behind may have the descriptor and never go. It is ended when nobody else has the file
open: a living actor always has.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from core.protocol import Controller, HostHeld
from workers.host import shared
from workers.host.marks import Marks
from workers.host.orphans import end_orphans
from workers.host.process import Identity

# A controller that waits asks every second, and one search walks all of /proc.
SEARCH_EVERY_S = 10.0
# Who holds a lock is told in less.
WORDS_BYTES = 4096


def held_by(controller: Controller, since: str) -> HostHeld:
    return HostHeld(user=controller.user, controller=f"{controller.machine}:{controller.pid}", since=since)


class HostLock:
    """The lock file at `path`. Not held at first. `marks` tell the orphans of dead actors."""

    def __init__(self, path: Path, marks: Marks, grace_s: float) -> None:
        self._path = path
        self._marks = marks
        self._grace_s = grace_s
        self._descriptor: int | None = None
        self._searched = float("-inf")
        self._stuck: list[Identity] = []

    @property
    def descriptor(self) -> int:
        """What a runner inherits. Raises RuntimeError when the lock is not held."""
        if self._descriptor is None:
            raise RuntimeError(f"{self._path} is not locked by this actor: no runner may start")
        return self._descriptor

    def acquire(self, controller: Controller, since: str) -> HostHeld | None:
        """Take the lock for `controller`. Returns who has it when it is taken. Waits for nobody but orphans to end.

        Raises NotShared, OSError.
        """
        self._descriptor = self._take()
        if self._descriptor is None:
            self._end_orphans()
            self._descriptor = self._take()
            if self._descriptor is None:
                return self._holder()
        # for people only: a full disk keeps nobody from the host
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, held_by(controller, since).model_dump_json().encode())
        self._marks.forget_all()
        return None

    def _end_orphans(self) -> None:
        """Now and then: the host may be measuring for whoever has the lock."""
        if time.monotonic() - self._searched >= SEARCH_EVERY_S:
            self._searched = time.monotonic()
            self._stuck = end_orphans(self._path, self._marks, self._grace_s)

    def _take(self) -> int | None:
        descriptor = shared.open_or_make(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def other(self) -> HostHeld | None:
        """Who has the lock now, when it is not this actor: asked without taking it from anybody."""
        if self._descriptor is not None:
            return None
        try:
            descriptor = shared.open_existing(self._path)
        except (OSError, shared.NotShared):
            return None
        try:
            # refused exactly while somebody holds it, and let go with the file
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._holder()
        finally:
            os.close(descriptor)
        return None

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _holder(self) -> HostHeld:
        said = self._words()
        if said is None:
            said = HostHeld(user="unknown", controller=f"the holder of {self._path}", since="unknown")
        if not self._stuck:
            return said
        left = f"left pid {self._stuck[0].pid} behind, which survives SIGKILL: restart the host"
        return said.model_copy(update={"controller": f"{said.controller} {left}"})

    def _words(self) -> HostHeld | None:
        """None while its owner is between locking and writing, and for what is not fit to be shown."""
        try:
            descriptor = shared.open_existing(self._path)
        except (OSError, shared.NotShared):
            return None
        try:
            said = HostHeld.model_validate_json(os.pread(descriptor, WORDS_BYTES, 0))
        except ValueError:
            return None
        finally:
            os.close(descriptor)
        return said if all(word.isprintable() for word in said.model_dump().values()) else None
