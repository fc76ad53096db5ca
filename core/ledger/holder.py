"""Who holds a ledger now: asked without taking part in who may."""

import fcntl
import json
from pathlib import Path
from typing import NamedTuple

from core.ledger.paths import lock_path


class Holder(NamedTuple):
    """What the controller that decides says of itself."""

    who: str
    pid: int
    machine: str
    since: str


def holder(path: Path) -> Holder | None:
    """The controller of the ledger at `path`, or None while nobody decides for it.

    The lock file outlives its holders, so only a lock that is held means something. A shared lock is taken for the
    microseconds of the question and refused exactly while a controller holds its exclusive one.
    """
    try:
        with lock_path(path).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _said(file.read())
    except OSError:
        return None
    return None


def _said(text: str) -> Holder:
    try:
        said = json.loads(text)
        return Holder(str(said["who"]), int(said["pid"]), str(said["machine"]), str(said["since"]))
    except (ValueError, KeyError, TypeError):
        return Holder("somebody who has just begun", 0, "", "now")
