"""Files that appear whole or not at all: made beside their place, forced to disk, renamed.

Whoever is killed in between leaves a temporary that says whose it was; the next one with the same aim removes it.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

from infra.remote.processes import Refused, stat_of, this


def temporary(path: Path) -> Path:
    """A name beside `path` for the caller alone. Removes what dead ones left there for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.iterdir():
        if other.name.startswith(f"{path.name}.tmp.") and is_abandoned(other.name):
            remove(other)
    me = this()
    return path.with_name(f"{path.name}.tmp.{me.pid}.{me.start_time}")


def is_abandoned(name: str) -> bool:
    """Whether it is a temporary of a process that lives no more."""
    pid, _, start_time = name.rpartition(".tmp.")[2].partition(".")
    if not (pid.isdigit() and start_time.isdigit()):
        return False
    seen = stat_of(int(pid))
    return seen is None or not seen.lives or seen.start_time != int(start_time)


def remove(path: Path) -> None:
    """File or folder, if it is there."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # another removes it, too
            shutil.rmtree(path)
    with suppress(FileNotFoundError):
        path.unlink()


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """A file that must not be there yet, on disk when this returns."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int) -> None:
    scratch = temporary(path)
    try:
        write_new(scratch, data, mode)
        scratch.replace(path)
    except BaseException:
        remove(scratch)
        raise
    sync_folder(path.parent)


def secret(path: Path) -> str:
    """For its owner's eyes only; made when there is none, by one of those who ask at the same time."""
    scratch = temporary(path)
    if not path.exists():
        write_new(scratch, secrets.token_hex(32).encode(), 0o600)
        with suppress(FileExistsError):
            os.link(scratch, path)
        scratch.unlink()
        sync_folder(path.parent)
    if path.stat().st_mode & 0o077:
        raise Refused(f"{path} can be read by others: remove it, and bring the pool down and up again")
    return path.read_text().strip()


def unpack(path: Path, tar_gz: bytes) -> bool:
    """A folder from an archive. Whether it was made now: one that is there stays as it is."""
    scratch = temporary(path)
    if path.exists():
        return False
    try:
        with tarfile.open(fileobj=io.BytesIO(tar_gz), mode="r:gz") as archive:
            _extract(archive, scratch)
        scratch.rename(path)
    except (tarfile.TarError, EOFError) as e:
        raise Refused(f"{path}: what arrived is no whole archive ({e}): try again") from e
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.exists():
            return False  # another was faster
        raise
    finally:
        remove(scratch)
    sync_folder(path.parent)
    return True


def _extract(archive: tarfile.TarFile, into: Path) -> None:
    """Regular files and folders, and nothing that could lie elsewhere. Every one is made here and new."""
    into.mkdir(0o755)
    folders = {into}
    for member in archive:
        name = Path(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
            raise Refused(f"{member.name!r} is no plain file inside the archive: nothing of it was unpacked")
        place = into / name
        folder = place if member.isdir() else place.parent
        folder.mkdir(0o755, parents=True, exist_ok=True)
        folders.add(folder)
        if member.isfile():
            content = archive.extractfile(member)
            assert content is not None
            write_new(place, content.read(), 0o755 if member.mode & stat.S_IXUSR else 0o644)
    for folder in folders:
        sync_folder(folder)
