"""A disk that is full to its last byte, and has room again."""

from contextlib import suppress
from pathlib import Path


def fill(disk: Path) -> None:
    """Not a byte is left."""
    with suppress(OSError), _ballast(disk).open("ab", buffering=0) as file:
        for size in (1 << 20, 1):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass


def free(disk: Path) -> None:
    _ballast(disk).unlink()


def _ballast(disk: Path) -> Path:
    return disk / "ballast"
