"""The code hash: which code a measurement was made with.

A series is measured with one code hash, a visit names the one it expects, and a host that has another refuses it. It
covers what can change a number: every Python file of `core` and `workers`, and the compilers below them.
"""

import hashlib
from importlib import metadata
from pathlib import Path

# The packages that are installed side by side with this one and whose code a runner executes.
PACKAGES = ("core", "workers")
COMPILERS = ("jax", "jaxlib", "libtpu")

_ROOT = Path(__file__).resolve().parents[1]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def code_hash(root: Path = _ROOT) -> str:
    """64 hexadecimal digits: SHA-256 of the sorted *.py of the packages under `root` and of the compilers' versions.

    Read anew at each call: an editable install can change under a worker that lives for days, and it is the runner it
    forks next that measures.
    """
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    for distribution in COMPILERS:
        digest.update(f"{distribution}={_version(distribution)}\0".encode())
    return digest.hexdigest()
