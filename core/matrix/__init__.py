"""Matrices: a TOML file that asks a question -> cells, jobs and groups.

Every cell has a job or a reason why not; every job that is compared has its reference in its group; whatever is
wrong in a file is one MatrixError that names the place and the way out. Nothing here runs, stores or times anything.
"""

from pathlib import Path

from core.matrix.error import MatrixError
from core.matrix.expand import NO_REVISIONS, expand, revisions_of
from core.matrix.model import MAX_ARMS, NO_OVERRIDES, Cell, Expansion, Group, Measure, Overrides
from core.matrix.revisions import Revisions

__all__ = [
    "MAX_ARMS",
    "NO_OVERRIDES",
    "NO_REVISIONS",
    "Cell",
    "Expansion",
    "Group",
    "MatrixError",
    "Measure",
    "Overrides",
    "Revisions",
    "expand",
    "read_matrix",
    "read_text",
    "revisions_of",
]

# Written by hand, a matrix has a hundred lines; a larger file is something else.
MAX_BYTES = 1 << 20


def read_matrix(path: Path, overrides: Overrides = NO_OVERRIDES, revisions: Revisions = NO_REVISIONS) -> Expansion:
    """The expansion of the matrix in a file. Raises MatrixError."""
    return expand(read_text(path), str(path), overrides, revisions)


def read_text(path: Path) -> str:
    """The text of a matrix, not yet looked at. Raises MatrixError when the file cannot hold one."""
    try:
        if path.is_dir():
            raise MatrixError(f"{path}: a directory; name the .toml file in it")
        if path.exists() and not path.is_file():
            raise MatrixError(f"{path}: not a regular file; name a .toml file")
        if path.stat().st_size > MAX_BYTES:
            raise MatrixError(f"{path}: larger than {MAX_BYTES} bytes, so no matrix; name a .toml file")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MatrixError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except FileNotFoundError:
        raise MatrixError(f"{path}: no such file; check the name, matrices end in .toml") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MatrixError(f"{path}: cannot be read ({error}); check its name and permissions") from None
