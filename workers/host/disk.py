"""Writes that survive a power cut, and the look that tells whether the disk still takes any.

A file is durable when its bytes, its name and its directory are: write, fsync, rename, fsync of the directory.
"""

import os
import shutil
from pathlib import Path
from tempfile import NamedTemporaryFile

# Below this a visit's spool (a few MiB) and one compiled program (tens of MiB) may no longer fit.
MIN_FREE_BYTES = 64 << 20


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, text: str) -> None:
    """Replace `path` by `text`, so that a crash leaves the old file or the new one. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def complaint(directory: Path) -> tuple[str, int]:
    """Why `directory` is not fit to write to, "" when it is, and its free bytes. Writes a file to find out."""
    try:
        # A name of its own: two looks at a time must not take each other's file away.
        with NamedTemporaryFile(dir=directory, prefix=".trial-") as trial:
            trial.write(b"\0" * 4096)
            trial.flush()
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        return f"{directory} cannot be written: {error.strerror}; free some space or fix its permissions", 0
    if free_bytes < MIN_FREE_BYTES:
        return (
            f"{directory} has {free_bytes >> 20} MiB free, {MIN_FREE_BYTES >> 20} MiB are needed: free some space",
            free_bytes,
        )
    return "", free_bytes
