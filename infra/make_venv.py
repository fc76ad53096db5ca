"""Makes an environment on a host: runs there, as `python3 -c TEXT ARGUMENTS`, in whatever Python 3.8 or later it has.

An environment appears under its name by one rename, complete and on disk, or it does not appear. Of several who want
one at the same time, one makes it and the others wait. What lies here imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(root: str, place: str, making: str, uv: str, python: str, requirements: list[str], constraints: str) -> str:
    """Makes `place` inside `making`, beside it, unless it is there. Returns what went wrong, "" when nothing."""
    scratch = Path(making)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    # uv inherits the lock: where this process is killed uv may go on writing, and until it ends nobody else begins
    with Path(root, "envs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if Path(place, "bin", "python").exists():
            return ""
        # an attempt that was interrupted; an environment whose interpreter has gone from the host
        for left in (making, place):
            shutil.rmtree(left, ignore_errors=True)
        # Linked from uv's cache, not copied; the cache goes when the environment is made, so that nothing else stays on
        # the host but an interpreter, where uv had to fetch one. What is made rarely may be downloaded again.
        settings = dict(
            os.environ,
            UV_CACHE_DIR=str(scratch / "cache"),
            UV_PYTHON_INSTALL_DIR=str(Path(root, "python")),
            # whom the host trusts: an index of a company's own may be signed by its own authority
            UV_SYSTEM_CERTS="1",
            # what somebody set for work of their own on this host is not meant for ours
            UV_NO_CONFIG="1",
        )
        venv, pins = scratch / "venv", scratch / "constraints.txt"
        # relocatable: its scripts find their interpreter beside them, so `bin/ray` works after the rename
        create = [uv, "venv", "--quiet", "--no-project", "--relocatable", "--python", python, str(venv)]
        # wheels alone: a host may lack a compiler, and nothing of a package runs while it is installed
        install = [uv, "pip", "install", "--quiet", "--no-build", "--python", str(venv / "bin" / "python")]
        try:
            scratch.mkdir()
            pins.write_text(constraints)
            for command in (create, [*install, "--constraints", str(pins), "--", *requirements]):
                said = run(command, settings, lock.fileno())
                if said:
                    return said
            sync_disk(lock.fileno())
            venv.rename(place)
            return ""
        except OSError as e:
            return str(e)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def sync_disk(descriptor: int) -> None:
    """Forces what was written to the file system of this descriptor to disk; no other, which may be a hung network."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        raise OSError(ctypes.get_errno(), f"syncfs: {os.strerror(ctypes.get_errno())}")


def run(command: list[str], settings: dict[str, str], lock: int) -> str:
    """Runs uv to its end. Returns what it complained of, "" when it succeeded."""
    ran = subprocess.run(
        command, env=settings, pass_fds=[lock], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )
    return "" if ran.returncode == 0 else ran.stdout.strip() or f"uv ended with status {ran.returncode}"


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])) or 0)
