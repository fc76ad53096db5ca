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
        # who it is comes first: what is seen of another process that gets this pid later is then nobody's
        identity = identify(pid)
        with suppress(OSError):
            if identity is not None and openers(pid, lambda name: name == real):
                found.append(identity)
    if any(marks.whose(identity.pid) is not Whose.STALE for identity in found):
        return []
    left = end_by(signal.SIGTERM, found, grace_s)
    return end_by(signal.SIGKILL, left, GONE_S)
