"""A controller that outlives the terminal it is started from: a session of its own, and a log beside the ledger.

Whoever starts it stays until it holds the ledger, so that what keeps it from that is told at once.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from core.errors import HillclimbError
from core.ledger.holder import holder
from core.ledger.paths import log_path

# Far below what a person notices, far above what it costs to ask who holds a ledger.
LOOK_S = 0.05

# A sentence and what led to it: the log has the rest.
LAST_LINES = 5


class Died(HillclimbError):
    """The controller ended before it held the ledger; `exit_code` is its own."""

    def __init__(self, exit_code: int, words: str) -> None:
        super().__init__(words)
        self.exit_code = exit_code


def start(words: Sequence[str], path: Path) -> int:
    """Starts `hillclimb WORDS`, a command that drives the ledger at `path`; its pid, once it holds it. Raises Died."""
    # the console script that runs now, by the interpreter that runs it
    command = [sys.executable, str(Path(sys.argv[0]).absolute()), *words]
    with log_path(path).open("ab") as log:
        began = log.tell()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        while child.poll() is None:
            held = holder(path)
            if held is not None and held.pid == child.pid:
                return child.pid
            time.sleep(LOOK_S)
    except BaseException:
        # whoever is interrupted here leaves nothing behind
        child.terminate()
        child.wait()
        raise
    code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    with log_path(path).open("rb") as log:
        log.seek(began)
        said = log.read().decode(errors="replace").strip().splitlines()
    last = "\n".join(said[-LAST_LINES:]).removeprefix("hillclimb: ")
    raise Died(code, last or f"the controller ended with exit code {code} and no word: {log_path(path)}")
