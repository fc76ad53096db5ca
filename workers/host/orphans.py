"""The end of what dead actors left behind with the host's lock in its hands."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from workers.host.holders import everyone, openers
from workers.host.marks import Marks, Whose
from workers.host.process import GONE_S, Identity, end_by, identify


def end_orphans(path: Path, marks: Marks, grace_s: float) -> list[Identity]:
    """End the processes that have `path` open, if every one of them is ours and stale. Returns those that survive it.

    TERM, `grace_s`, KILL. Blocking: walks /proc.
    """
    real = os.path.realpath(path)
    found = []
    for pid in everyone():
        with suppress(OSError):
            if openers(pid, lambda name: name == real):
                found.append(pid)
    if any(marks.whose(pid) is not Whose.STALE for pid in found):
        return []
    left = [identity for pid in found if (identity := identify(pid))]
    left = end_by(signal.SIGTERM, left, grace_s)
    return end_by(signal.SIGKILL, left, GONE_S)
