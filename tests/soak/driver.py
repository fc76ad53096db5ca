"""The controller of a soak: one command, started again whenever it ends before its work is done."""

import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import BIN
from tests.processes import end_session

# Everything has its last word: all done, or some jobs failed.
DONE = frozenset({0, 3})


class Driver:
    """`hillclimb drive`. `ends` counts how it ended, by exit status."""

    def __init__(self, ledger: Path, pool: Path, environment: Mapping[str, str], logs: Path) -> None:
        self._command = (BIN / "hillclimb", "drive", "--ledger", ledger, "--pool", pool)
        self._environment = environment
        self._logs = logs
        self._process: subprocess.Popen[str] | None = None
        self.ends: Counter[int] = Counter()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def tend(self) -> bool:
        """Starts it when it does not run. Returns whether it has just ended with everything done."""
        if self._process is not None and (status := self._process.poll()) is not None:
            self.ends[status] += 1
            end_session(self._process)
            self._process = None
            if status in DONE:
                return True
        if self._process is None:
            with (self._logs / f"drive-{self.ends.total():03}.log").open("w") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    text=True,
                )
        return False

    def end(self) -> None:
        if self._process is not None:
            end_session(self._process)
            self._process = None
