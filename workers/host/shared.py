"""A file that every user of a machine may open, in a directory where every user may put something.

Whoever comes first makes it, for all: who comes later opens it as it is. Under its name may lie what somebody else put
there: no link is followed, nothing is waited for, and a file that has another name too is not written to.
"""

import errno
import os
import stat
from pathlib import Path

from core.errors import HillclimbError

MODE = 0o666
# O_NONBLOCK: a FIFO without a writer would be waited for.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

# What open(2) says of a symbolic link, a socket and a directory.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR})


class NotShared(HillclimbError):
    """What lies there is not a file for all. Says what to do about it."""


def open_or_make(path: Path) -> int:
    """Its descriptor, for reading and writing. Raises NotShared, OSError."""
    try:
        return open_existing(path)
    except FileNotFoundError:
        pass
    try:
        # never O_CREAT for a file that is there: the kernel refuses it another user's (fs.protected_regular)
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, MODE)
    except FileExistsError:
        return open_existing(path)
    os.fchmod(descriptor, MODE)  # whatever the umask says
    return descriptor


def open_existing(path: Path) -> int:
    """Its descriptor, for reading and writing. Raises FileNotFoundError, NotShared, OSError."""
    try:
        descriptor = os.open(path, _FLAGS)
    except PermissionError as error:
        raise NotShared(f"{path} is not for all users: `chmod 666` it as its owner or as root") from error
    except OSError as error:
        if error.errno in _NO_FILE:
            raise NotShared(f"{path} is no regular file: find out who put it there, and remove it") from error
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    what = "has another name" if stat.S_ISREG(found.st_mode) else "is no regular file"
    raise NotShared(f"{path} {what}: find out who put it there, and remove it")
