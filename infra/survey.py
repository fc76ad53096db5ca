"""What a host has of a pool, as seen there: Ray's processes, who uses them, the room they take.

The text of this file is a program that the agent runs with the host's own Python, so it knows nothing but the standard
library of Python 3.8. It reads and changes nothing. A process is the pool's when its environment names the pool's token
file: Ray hands that on to every process it starts, and those to theirs. A zombie has none, and is none of them.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

PROC = Path("/proc")
# Long enough for every name that is asked for: the kernel cuts a command's name after 15 characters.
RAY = ("gcs_server", "raylet")


def survey(token: str, lock: str, folders: dict[str, str]) -> dict[str, Any]:
    """`lock`: the file that whoever uses the host has open. `folders`: paths by name whose size is asked.

    Returns `sessions`: session -> Ray's living servers in it; `holder`: what the lock file says while one of the pool's
    processes has it open, else null; `memory_bytes`: of the pool's processes, what they share counted once;
    `folders`: bytes on the disk by name.
    """
    sessions: dict[str, list[str]] = {}
    memory_bytes = 0
    is_held = False
    for pid in _pool_processes(token):
        with suppress(OSError, ValueError):  # gone meanwhile
            name, _, rest = (PROC / pid / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
            session = rest.split()[3]
            if name in RAY:
                sessions.setdefault(session, []).append(name)
            is_held = is_held or _has_open(pid, lock)
            memory_bytes += _proportional_bytes(pid)
    return {
        "sessions": sessions,
        "holder": _text(lock) if is_held else None,
        "memory_bytes": memory_bytes,
        "folders": {name: _size_bytes(folder) for name, folder in folders.items()},
    }


def _pool_processes(token: str) -> list[str]:
    mark = b"RAY_AUTH_TOKEN_PATH=" + os.fsencode(token)
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # gone, or somebody else's
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(entry.name)
    return found


def _has_open(pid: str, path: str) -> bool:
    real = os.path.realpath(path)
    for link in (PROC / pid / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.path.realpath(link) == real:
                return True
    return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _proportional_bytes(pid: str) -> int:
    for line in (PROC / pid / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _size_bytes(folder: str) -> int:
    """Of what lies in it, files with several names counted once."""
    seen: set[int] = set()
    total = 0
    for path in Path(folder).rglob("*"):
        with suppress(OSError):  # removed meanwhile
            status = path.lstat()
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total


if __name__ == "__main__":
    # JSON of the arguments of `survey` in, JSON of its result out
    print(json.dumps(survey(**json.loads(sys.argv[1]))))
