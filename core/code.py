"""The code hash: which code a measurement was made with.

A series is measured with one code hash, a visit names the one it expects, and a host that has another refuses it. It
covers what can change a number: every Python file of `core` and `workers`, and the compilers below them.
"""

import hashlib
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath

# The packages that are installed side by side with this one and whose code a runner executes.
PACKAGES = ("core", "workers")
COMPILERS = ("jax", "jaxlib", "libtpu")

_ROOT = Path(__file__).resolve().parents[1]


def code_hash(root: Path = _ROOT) -> str:
    """The code hash of the packages under `root`, with the compilers that are installed here.

    Read anew at each call: an editable install can change under a worker that lives for days, and it is the runner it
    forks next that measures.
    """
    paths = (path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return hash_of({path.relative_to(root).as_posix(): path.read_bytes() for path in paths}, compilers())


def hash_of(files: Mapping[str, bytes], versions: Mapping[str, str]) -> str:
    """64 hexadecimal digits: SHA-256 of the sorted *.py of the packages among `files`, and of the compilers' versions.

    `files`: content by relative path, of a tree that need not be on disk. A compiler without a version counts as none.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in files if name.endswith(".py") and PurePosixPath(name).parts[0] in PACKAGES):
        digest.update(os.fsencode(f"{name}\0{len(files[name])}\0"))
        digest.update(files[name])
    for distribution in COMPILERS:
        digest.update(f"{distribution}={versions.get(distribution, 'none')}\0".encode())
    return digest.hexdigest()


def compilers() -> dict[str, str]:
    """The versions of the compilers that are installed here."""
    found = {}
    for distribution in COMPILERS:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found
