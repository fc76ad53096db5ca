"""Where a ledger lies, and which places cannot hold one. Light: everyone who names a ledger comes through here."""

import os
import re
from pathlib import Path

from core.ledger.errors import LedgerError

VARIABLE = "HILLCLIMB_LEDGER"
DEFAULT = "hillclimb.db"

_MAGIC = b"SQLite format 3\0"

# SQLite's write-ahead log needs memory shared by all of a file's users, which these cannot give across machines.
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "afs", "9p", "glusterfs"}
)
_NETWORK_FUSE = frozenset({"sshfs", "gcsfuse", "s3fs", "rclone", "glusterfs", "ceph", "juicefs", "goofys", "davfs2"})


def default_path(option: Path | None) -> Path:
    """The ledger to use: `--ledger`, else $HILLCLIMB_LEDGER, else ./hillclimb.db."""
    return option or Path(os.environ.get(VARIABLE) or DEFAULT)


def lock_path(path: Path) -> Path:
    """The decider's lock file. Two names of one ledger (a link, a relative path) share it."""
    real = path.resolve()
    return real.with_name(real.name + ".lock")


def log_path(path: Path) -> Path:
    """Where a controller without a terminal says what it does."""
    real = path.resolve()
    return real.with_name(real.name + ".log")


def check_place(path: Path) -> None:
    """Raises LedgerError unless a ledger is at `path`, as far as its first bytes tell, or could be made there."""
    if path.is_dir():
        raise LedgerError(f"{path} is a directory: name the ledger file in it with --ledger")
    directory = path.resolve().parent
    if not directory.is_dir():
        raise LedgerError(f"{path}: there is no directory {directory}: make it, or name another ledger with --ledger")
    kind = filesystem_of(directory)
    if kind in _NETWORK or kind.removeprefix("fuse.") in _NETWORK_FUSE:
        raise LedgerError(
            f"{path} lies on a network file system ({kind}), where SQLite's write-ahead log does not work: "
            "name a ledger on a local disk with --ledger"
        )
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        head = b""
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror}: check its permissions, or name another with --ledger"
        ) from error
    if head and head != _MAGIC:
        raise LedgerError(f"{path} is not a SQLite file, so it is no ledger: name the right one with --ledger")
    unwritable = next((p for p in (directory, path) if p.exists() and not os.access(p, os.W_OK)), None)
    if unwritable:
        raise LedgerError(
            f"{path} cannot be written: you may not write {unwritable}: name a ledger of your own with --ledger"
        )


def filesystem_of(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that holds `directory`, as the kernel names it; "" where it does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    found = ("", "")
    for line in lines:
        # proc_pid_mountinfo(5): field 5 is the mount point with octal escapes, the type follows the lone hyphen
        fields = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        covers = directory == Path(point) or Path(point) in directory.parents
        if covers and len(point) >= len(found[0]):
            found = (point, fields[fields.index("-") + 1])
    return found[1]
