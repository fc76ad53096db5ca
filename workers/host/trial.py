"""The throw-away start: a process that starts a host's accelerator as a runner would, under a deadline, and ends.

The only look at a host that is not read-only, and the only one that shows a holder nobody can see, or chips that hang.
It is a runner like any other: in a session of its own, marked, with the host's lock, killed with the thread that
started it.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from core.failures import Blame, Kind, blame
from core.job import SelftestJob
from core.visit import Phase, Slot, Target, Visit
from workers.bench.settings import process_settings
from workers.host.inherit import inherited_environment
from workers.host.marks import Marks
from workers.host.process import Identity, end_survivors, identify
from workers.host.tail import Tail
from workers.host.verdict import Ending, Evidence, describe, verdict

# What its stacks take to be written.
STACKS_S = 2.0


class Trouble(NamedTuple):
    """Why the accelerator cannot be used: how a visit would fail there, and a sentence for a person.

    `in_use`: somebody may be working with it whom nobody told us to end.
    """

    kind: Kind
    reason: str
    in_use: bool = False


@dataclass(frozen=True)
class Trial:
    """A host's throw-away start. `command` is that of its runners."""

    target: Target
    scratch: Path
    marks: Marks
    command: Sequence[str]
    lock_descriptor: int
    grace_s: float
    deadline_s: float

    def __call__(self) -> Trouble | None:
        """Start the accelerator and let it go. Returns why that cannot be done. Blocking."""
        slot = Slot(slot=0, job=SelftestJob())  # never measured: a runner's settings come from a visit
        visit = Visit(visit=1, slots=(slot,), iters=1, warmup=0, target=self.target)
        with TemporaryDirectory(prefix="trial-", dir=self.scratch) as folder:
            file, said = Path(folder) / "visit.json", Path(folder) / "output"
            file.write_text(visit.model_dump_json())
            with said.open("wb") as output:
                returncode, left = self._run(visit, file, output)
            text = Tail()
            text.feed(said.read_bytes())
        if left:
            pids = ", ".join(str(identity.pid) for identity in left)
            return Trouble(Kind.TPU_BUSY, f"the trial start survives SIGKILL as pid {pids}: restart the host")
        return self._judge(returncode, text.text())

    def _run(self, visit: Visit, file: Path, output: IO[bytes]) -> tuple[int | None, list[Identity]]:
        """The exit status, None past the deadline, and what is left of it."""
        mark = self.marks.new()
        process = subprocess.Popen(
            [*self.command, str(file), "--claim", "--die-with-parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=process_settings(visit, inherited_environment(os.environ)) | mark,
            cwd=file.parent,
            pass_fds=(self.lock_descriptor,),
            start_new_session=True,
        )
        identity = identify(process.pid)
        assert identity is not None  # ours and not reaped
        self.marks.record(mark, identity)
        try:
            returncode = self._await(process, self.deadline_s)
            for number, within_s in ((signal.SIGUSR1, STACKS_S), (signal.SIGTERM, self.grace_s)):
                if process.returncode is None:
                    process.send_signal(number)
                    self._await(process, within_s)
            left = end_survivors(identity)
            process.poll()
            return returncode, left
        finally:
            self.marks.forget(mark)

    @staticmethod
    def _await(process: subprocess.Popen[bytes], within_s: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(within_s)
        return None

    def _judge(self, returncode: int | None, output: str) -> Trouble | None:
        if returncode == 0:
            return None
        ended = Ending.STALL if returncode is None else None
        kind, because = verdict(Evidence(returncode, Phase.INIT, output, ended))
        if blame(kind) is not Blame.HOST:  # it ran no job
            kind = Kind.WRONG_DEVICE
        how = f"did not end within {self.deadline_s:g} s" if ended else f"failed ({describe(returncode)})"
        return Trouble(kind, f"a trial start {how}{because and f': {because}'}")
