"""What is started on a host and stays when we go: one process of a name, its record, its log.

A record is written by the process itself before it becomes the program: none is ever without one. A record of a process
that is dead, of another boot, or whose pid is another's now counts as none.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.remote.files import replace
from infra.remote.processes import KILL_S, POLL_S, Leader, Refused, begin, end, last_words, members, this

# What failed to start, or has lost its leader, gets so long to put its things away.
GRACE_S = 5.0


class Daemon:
    """The one of this name: `run` is the folder of records, logs and locks."""

    def __init__(self, run: Path, name: str) -> None:
        if Path(name).name != name:
            raise Refused(f"{name!r} is no name for a process")
        self._name = name
        self._lock, self._record, self.log = (run / f"{name}{kind}" for kind in (".lock", ".json", ".log"))

    def alive(self) -> dict[str, Any] | None:
        """Its record, while it lives."""
        record = self._read()
        return record if record is not None and _leader(record).is_alive else None

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        info: Mapping[str, Any],
        ready: str,
        within_s: float,
        umask: int,
        children: list[subprocess.Popen[bytes]],
    ) -> dict[str, Any]:
        """Its record; started unless it lives, and its log says `ready`. A child of ours is added to `children`.

        Raises OSError when there is no such program, Refused with the end of the log when it ends or is not ready.
        """
        with self._alone(within_s):
            deadline = time.monotonic() + within_s
            record = self.alive() or self._begin(argv, env, info, umask, children)
            while True:
                for child in children:
                    child.poll()
                lives = _leader(record).is_alive  # before the last look at what it said
                if ready in self._said():
                    return record
                if not lives or time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
            end(_leader(record), GRACE_S)
            how = f"was not ready within {within_s:g} s" if lives else "ended"
            raise Refused(f"{self._name} {how}; the end of {self.log}: {last_words(self._said())}")

    def stop(self, grace_s: float) -> bool:
        """Ends it with all it started. Whether there was anything. Raises Refused when something will not go."""
        with self._alone(grace_s + KILL_S):
            record = self._read()
            if record is None:
                return False
            was_there = bool(members(_leader(record)))
            end(_leader(record), grace_s)
            self._record.unlink()
            return was_there

    def _begin(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        info: Mapping[str, Any],
        umask: int,
        children: list[subprocess.Popen[bytes]],
    ) -> dict[str, Any]:
        mark = secrets.token_hex(8)
        about = {"argv": list(argv), "since": time.time(), "info": dict(info)}

        def enter() -> None:
            record = {**this()._replace(mark=mark)._asdict(), **about}
            replace(self._record, json.dumps(record).encode(), 0o600)

        left = self._read()
        if left is not None:
            # a leader may be gone while what it started is not: two raylets of one name
            end(_leader(left), GRACE_S)
        with self.log.open("wb") as log:
            try:
                children.append(begin(argv, env, mark, umask, log, log, enter))
            except subprocess.SubprocessError as e:
                raise Refused(f"{self._name} cannot be started ({e}): is the disk full?") from e
        record = self._read()
        assert record is not None
        return record

    @contextmanager
    def _alone(self, within_s: float) -> Iterator[None]:
        """One at a time starts or stops it."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + within_s
        with self._lock.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Refused(f"somebody else starts or stops {self._name} here: try again later") from None
                    time.sleep(POLL_S)
            yield

    def _read(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        return record

    def _said(self) -> str:
        try:
            return self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""


def _leader(record: Mapping[str, Any]) -> Leader:
    return Leader(*(record[field] for field in Leader._fields))
