"""libtpu's lock: a file that libtpu opens for writing and takes an `fcntl` lock on, and never removes.

A leftover that nobody has locked is harmless to its owner and in the way of everybody else. It is removed under the
lock itself and under no other circumstances: a file unlinked while somebody has it locked makes two owners, and turns
libtpu's clear message into a busy vfio group.
"""

import fcntl
import os
import struct
from pathlib import Path

# struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


def _open(path: Path) -> int:
    """As libtpu does, but never through a link and never a new one. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


def holder(path: Path) -> int | None:
    """The pid that has the lock. None when nobody has, or nobody who can be seen."""
    try:
        descriptor = _open(path)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return pid if kind != fcntl.F_UNLCK and pid > 0 else None
    finally:
        os.close(descriptor)


def obstacle(path: Path) -> str:
    """Why libtpu, started by this user, would stumble over a file that nobody has locked. "" when it would not."""
    try:
        uid = path.lstat().st_uid
    except FileNotFoundError:
        return ""
    if uid == os.geteuid():
        return ""
    return f"{path} belongs to uid {uid}: remove it, as that user or as root"


def remove(path: Path) -> str:
    """Remove a leftover. Returns why it is still there, or "" when there is none any more."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return obstacle(path) or f"{path} cannot be opened ({error.strerror}): remove it"
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            path.unlink()
        return ""
    except BlockingIOError:
        pid = holder(path)
        who = f"pid {pid}" if pid else "a process that cannot be seen from here"
        return f"{path} is locked by {who}: end that process"
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        return obstacle(path) or f"{path} cannot be removed ({error.strerror}): remove it"
    finally:
        os.close(descriptor)
