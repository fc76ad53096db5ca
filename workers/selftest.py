"""The selftest job's bench: no JAX, and an end that is chosen, for fault tests and for checks of a pool."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core.job import SelftestJob
from core.job.selftest import End
from core.visit import Phase
from workers.bench.bench import Checked, Measured

# A line that no reader of events accepts.
BAD_LINE = "this line is no event"


@dataclass(frozen=True)
class SelftestBench:
    """Sleeps `sleep_s` an iteration and ends as the job says, in the phase it says."""

    job: SelftestJob
    write: Callable[[str], None]
    devices: ClassVar[int] = 1
    timed: ClassVar[bool] = True

    def _reach(self, phase: Phase) -> None:
        if self.job.phase != phase.value:
            return
        match End(self.job.end):
            case End.OK | End.BAD_OUTPUT:
                pass
            case End.EXIT:
                os._exit(self.job.exit_code)
            case End.SIGNAL:
                os.kill(os.getpid(), self.job.signal)
            case End.HANG:
                while True:
                    signal.pause()
            case End.SPIN:
                # one call into C that holds the interpreter's lock and does not come back
                re.match("(a+)+$", "a" * 60 + "b")

    def inputs(self) -> str:
        self._reach(Phase.INPUTS)
        return self.job.id

    def lower(self) -> str:
        """The program is this file, doing what the job says: another revision of it is another program."""
        self._reach(Phase.LOWER)
        return hashlib.sha256(Path(__file__).read_bytes() + self.job.id.encode()).hexdigest()

    def compile(self) -> bool:
        self._reach(Phase.COMPILE)
        return False

    def check(self) -> Checked:
        self._reach(Phase.CHECK)
        return Checked(())

    def drop(self) -> None:
        pass

    def place(self) -> None:
        pass

    def warmup(self, calls: int) -> None:
        self._reach(Phase.WARMUP)
        time.sleep(self.job.sleep_s * calls)

    def measure(self, calls: int) -> Measured:
        self._reach(Phase.MEASURE)
        if End(self.job.end) is End.BAD_OUTPUT:
            self.write(BAD_LINE)
        return Measured(tuple(self._iteration() for _ in range(calls)))

    def _iteration(self) -> int:
        began = time.perf_counter_ns()
        time.sleep(self.job.sleep_s)
        return time.perf_counter_ns() - began
