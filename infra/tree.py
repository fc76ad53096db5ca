"""This code as a tree of files: what belongs to a bundle, at a commit, in the working tree, or where it is installed.

Read with git's plumbing only: no setting of a person's git changes what it finds, no name can become an option, and
nothing of the repository is written. It knows no host and packs nothing.
"""

import io
import os
import posixpath
import re
import stat
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from core.errors import HillclimbError

# What a host needs of this project: its code, and what its environment is made from.
PROJECT = ("pyproject.toml", "constraints.txt")
CONTENTS = ("core", "workers", "orchestrator", "infra", *PROJECT)


class File(NamedTuple):
    content: bytes
    executable: bool = False


class _Entry(NamedTuple):
    """As git and the disk have it: of a link, `content` is where it leads."""

    mode: int
    content: bytes


def has_repository(root: Path) -> bool:
    """Is `root` itself a git checkout? An installation inside somebody else's repository is none."""
    return (root / ".git").exists()


def commit_of(root: Path, revision: str) -> str:
    """The full id of the commit that a revision's name means. Raises HillclimbError."""
    if not has_repository(root):
        raise HillclimbError(
            f"revision {revision!r}: {root} is no git checkout: run hillclimb from a clone of its repository"
        )
    # git allows none of these in a name; what begins with a hyphen would be an option
    if re.search(r"^-|^$|[\s\0]", revision):
        raise HillclimbError(f"revision {revision!r}: no revision has such a name: write a branch, a tag or a commit")
    found = _ask(root, "rev-parse", "--verify", "--quiet", revision + "^{commit}")
    commit = found.stdout.decode().strip()
    if found.returncode == 0 and re.fullmatch(r"[0-9a-f]+", commit):
        return commit
    why = _said(found) or f"no commit of {root} has this name: `git -C {root} branch -a` lists some, or fetch it"
    raise HillclimbError(f"revision {revision!r}: {why}")


def at_commit(root: Path, commit: str) -> dict[str, File]:
    """The files of a commit, as they were committed. Raises HillclimbError."""
    listed = _git(root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *CONTENTS)
    blobs = []
    for entry in filter(None, listed.split(b"\0")):
        about, _, name = entry.partition(b"\t")
        octal, kind, blob = about.split()
        # a submodule has a commit where a file has a blob
        if kind == b"blob":
            blobs.append((os.fsdecode(name), int(octal, 8), blob))
    contents = io.BytesIO(_git(root, "cat-file", "--batch", stdin=b"".join(blob + b"\n" for _, _, blob in blobs)))
    entries = {}
    for path, mode, _ in blobs:
        size = int(contents.readline().split()[2])
        entries[path] = _Entry(mode, contents.read(size))
        contents.readline()
    return _without_links(entries)


def in_working_tree(root: Path) -> dict[str, File]:
    """The tracked files and the new ones that git does not ignore, as they are on disk. Raises HillclimbError."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENTS)
    return _on_disk(root, {os.fsdecode(path) for path in listed.split(b"\0") if path})


def as_installed(root: Path) -> dict[str, File]:
    """The files of an installation that is no git checkout. A wheel keeps PROJECT among its data files."""
    paths = (path for name in CONTENTS for path in (root / name, *(root / name).rglob("*")))
    files = _on_disk(root, (path.relative_to(root).as_posix() for path in paths if path.suffix != ".pyc"))
    with suppress(metadata.PackageNotFoundError):
        kept = {path.name: path for path in metadata.files("hillclimb") or () if path.name in PROJECT}
        files = {name: File(path.read_binary()) for name, path in kept.items()} | files
    return files


def _on_disk(root: Path, names: Iterable[str]) -> dict[str, File]:
    entries = {}
    for name in names:
        path = root / name
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                entries[name] = _Entry(mode, os.fsencode(path.readlink()))
            elif stat.S_ISREG(mode):
                entries[name] = _Entry(mode, path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            # tracked, deleted, and the deletion is not committed
            continue
        except OSError as e:
            raise HillclimbError(f"{path} cannot be read ({e.strerror}): correct its mode, or remove it") from e
    return _without_links(entries)


def _without_links(entries: Mapping[str, _Entry]) -> dict[str, File]:
    """A link becomes a copy of the file it leads to: a host has nothing of the rest of this machine."""
    files = {}
    for name in entries:
        end = name
        seen = set[str]()
        while stat.S_ISLNK(entries[end].mode):
            seen.add(end)
            leads = os.fsdecode(entries[end].content)
            end = posixpath.normpath(posixpath.join(posixpath.dirname(end), leads))
            # an absolute path stays one, and no entry has such a name
            if end in seen or end not in entries:
                raise HillclimbError(f"{name} is a link to {leads}, no file of the bundle: put a copy in its place")
        files[name] = File(entries[end].content, bool(entries[end].mode & stat.S_IXUSR))
    return files


def _git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    ran = _ask(root, *arguments, stdin=stdin)
    if ran.returncode != 0:
        raise HillclimbError(f"git {arguments[0]} failed in {root}: {_said(ran)}")
    return ran.stdout


def _ask(root: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    # a hook runs with GIT_DIR and GIT_INDEX_FILE of the repository it belongs to
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], input=stdin, capture_output=True, check=False, env=environment
        )
    except FileNotFoundError as e:
        raise HillclimbError(f"{root} is a git checkout and there is no git on the PATH: install it") from e


def _said(ran: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join(os.fsdecode(ran.stderr).split()).removeprefix("fatal: ").removeprefix("error: ")
