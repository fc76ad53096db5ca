"""A bundle: this code as it is put on a host, in a canonical form that is named by its content.

Equal files with equal modes have equal ids, whoever packs them, when, where from and with which zlib: the id is taken
before compression. It knows no host and no pool.
"""

import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from core.code import compilers, hash_of
from core.errors import HillclimbError
from infra.tree import CONTENTS, File, as_installed, at_commit, commit_of, has_repository, in_working_tree

_ROOT = Path(__file__).resolve().parents[1]

# What the working tree is called where a revision is asked for.
WORKING_TREE = ("", ".")

# This code is below 1 MiB. Somebody's data set, forgotten in a package's folder, would go to every host.
_MAX_BYTES = 32 * 2**20


class Bundle(NamedTuple):
    """`id`: SHA-256 of the canonical tar. `code`: the code hash of its tree, with the compilers it names.

    `revision`: the commit it is or stems from, "" where there is none. `diff`: SHA-256 of what it changes against that
    commit, "" when nothing. `archive`: the tar, compressed.
    """

    id: str
    code: str
    revision: str
    diff: str
    archive: bytes


def resolve(revision: str, root: Path = _ROOT) -> str:
    """The full id of the commit that a revision's name means, if a bundle can be made of it; "" for the working tree.

    Raises HillclimbError.
    """
    return "" if revision in WORKING_TREE else bundle_of(revision, root).revision


def bundle_of(revision: str, root: Path = _ROOT) -> Bundle:
    """The bundle of the working tree as it is now, or of a commit by any of its names. Raises HillclimbError."""
    if revision not in WORKING_TREE:
        return _bundle_of_commit(commit_of(root, revision), root)
    if not has_repository(root):
        return _pack(as_installed(root), "", "")
    head = commit_of(root, "HEAD")
    files = in_working_tree(root)
    return _pack(files, head, _difference(at_commit(root, head), files))


# queueing makes sure of it, and driving takes it
@lru_cache(maxsize=8)
def _bundle_of_commit(commit: str, root: Path) -> Bundle:
    return _pack(at_commit(root, commit), commit, "")


def _pack(files: Mapping[str, File], revision: str, diff: str) -> Bundle:
    missing = [name for name in ("workers/runner.py", "pyproject.toml") if name not in files]
    if missing:
        raise HillclimbError(f"{revision or 'this tree'} has no {missing[0]}: name a revision that holds hillclimb")
    largest = max(files, key=lambda name: len(files[name].content))
    total = sum(len(file.content) for file in files.values())
    if total > _MAX_BYTES:
        raise HillclimbError(
            f"the code has {total / 2**20:.0f} MiB, {largest} alone {len(files[largest].content) / 2**20:.0f}: "
            f"move what is no code out of {', '.join(CONTENTS[:4])}, or have git ignore it"
        )
    tar = pack(files)
    code = hash_of({name: file.content for name, file in files.items()}, _versions(files))
    return Bundle(hashlib.sha256(tar).hexdigest(), code, revision, diff, compress(tar))


def pack(files: Mapping[str, File]) -> bytes:
    """The canonical tar of `files`: sorted, with nothing of the packer, the clock or the disk in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name].content)
            member.mode = 0o755 if files[name].executable else 0o644
            tar.addfile(member, io.BytesIO(files[name].content))
    return packed.getvalue()


def compress(tar: bytes) -> bytes:
    """Lightly: a link takes less time than a processor needs for the last tenth."""
    return gzip.compress(tar, compresslevel=1, mtime=0)


def unpack(archive: bytes) -> dict[str, File]:
    """The files of an archive: of `pack`, compressed."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        return {member.name: File(file.read(), bool(member.mode & stat.S_IXUSR)) for member, file in members if file}


def _difference(base: Mapping[str, File], files: Mapping[str, File]) -> str:
    """SHA-256 of what `files` changes against `base`: the paths, and what is there now. "" when nothing."""
    changed = sorted(name for name in base.keys() | files.keys() if base.get(name) != files.get(name))
    if not changed:
        return ""
    now = pack({name: files[name] for name in changed if name in files})
    return hashlib.sha256(os.fsencode("\0".join(changed)) + now).hexdigest()


def _versions(files: Mapping[str, File]) -> dict[str, str]:
    """The compilers' versions this code runs with: those its own constraints pin, else those that are installed here.

    An environment is made from the constraints, also for a controller that has none of them (a laptop has no libtpu).
    """
    pins = files.get("constraints.txt", File(b"")).content.decode()
    return compilers() | dict(re.findall(r"^([\w.-]+)==([^\s;#]+)", pins, re.MULTILINE))
