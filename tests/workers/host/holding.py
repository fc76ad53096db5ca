"""Processes that hold what a runner needs."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from workers.host.process import Identity, identify

# Opens what it is told to, says so, and does before that what it is told to.
HOLD = """
import fcntl, os, signal, sys, threading, time
held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
def locked(): fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
def nobody(): os.setuid(65534)
def stubborn(): signal.signal(signal.SIGTERM, signal.SIG_IGN)
def stuck(): threading.Thread(target=os.read, args=(held, 1)).start()
for how in sys.argv[2:]: globals()[how]()
print("open", flush=True)
time.sleep(600)
"""


@contextmanager
def holding(
    path: Path, *how: str, mark: Mapping[str, str] | None = None, inherit: tuple[int, ...] = ()
) -> Iterator[Identity]:
    """A process that has `path` open, and the descriptors of `inherit`.

    `how`: locked, nobody (its user), stubborn (ignores TERM), stuck (reads on).
    """
    command = [sys.executable, "-c", HOLD, str(path), *how]
    environment = os.environ | (mark or {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, pass_fds=inherit) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            identity = identify(process.pid)
            assert identity is not None
            yield identity
        finally:
            process.kill()
