"""The decider's lock: at most one process decides for a ledger, and everyone else can read who it is.

An `flock` on `<ledger>.lock`, held for the controller's life: the kernel frees it when the process ends, however it
ends. The file's content says who holds it; the file itself is never removed, or two could hold one each.
"""

import fcntl
import getpass
import json
import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from core.ledger.errors import LedgerError, LedgerHeld
from core.ledger.paths import lock_path

# Far longer than it takes to ask who holds the lock, far shorter than anybody holds it to decide.
ASKING_S = 0.02


class DeciderLock:
    """Held from construction to `release`. Raises LedgerHeld, LedgerError."""

    def __init__(self, path: Path, now_ns: int) -> None:
        self.user = user_name()
        self.machine = socket.gethostname()
        self.pid = os.getpid()
        lock = lock_path(path)
        try:
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise LedgerError(f"{lock} cannot be written: {error.strerror}: check who may write there") from error
        if not self._taken():
            holder = _read(self._fd)
            os.close(self._fd)
            raise LedgerHeld(path, *holder)
        since = datetime.fromtimestamp(now_ns / 1e9).astimezone().isoformat(timespec="seconds")
        said = json.dumps({"who": self.user, "pid": self.pid, "machine": self.machine, "since": since})
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, said.encode(), 0)

    def _taken(self) -> bool:
        """Tried twice: whoever asks who decides holds a shared lock for microseconds (`core.ledger.holder`)."""
        for attempt in range(2):
            time.sleep(attempt * ASKING_S)
            with suppress(BlockingIOError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

    def release(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> "DeciderLock":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def user_name() -> str:
    """Who runs this process; a number where the user has no name here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _read(fd: int) -> tuple[str, int, str, str]:
    """Who, pid, machine, since: what the holder says of itself. It writes so right after it has taken the lock."""
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        return said["who"], said["pid"], said["machine"], said["since"]
    except (ValueError, KeyError, TypeError):
        return "somebody who has just begun", 0, socket.gethostname(), "now"
