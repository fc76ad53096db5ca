"""What a person sees while a matrix runs: one line a visit, and on a terminal a line below with what is left.

All of it goes to stderr; answers go to stdout.
"""

from collections import Counter
from collections.abc import Callable
from statistics import median
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.text import Text

from core.failures import MEANING
from core.ledger.writer import EndedVisit
from core.lifecycle import VisitState
from core.printable import printable


def visit_line(ended: EndedVisit) -> str:
    """`visit 3 on local: block 2 of first, 6 ok, 7.9 s`; what did not go well is said, with what happens next."""
    counts = Counter(str(run.kind or run.outcome) for run in ended.runs)
    runs = ", ".join(f"{n} {what}" for what, n in counts.most_common()) or "no runs"
    words = [
        f"visit {ended.visit} on {ended.host}: block {ended.block} of {ended.experiment}, {runs}, {ended.wall_s:.1f} s"
    ]
    if ended.state is not VisitState.FINISHED:
        words.append(f"{ended.state}: {ended.reason}" if ended.reason else str(ended.state))
    words += [f"{MEANING[kind].advice}" for kind in dict.fromkeys(ended.condemned.values())]
    if ended.make_up is not None:
        words.append(f"what is missing is measured in block {ended.make_up}")
    elif not ended.accepted and ended.state in {VisitState.FINISHED, VisitState.FAILED}:
        words.append("its block is measured again")
    return "; ".join(words)


class Progress:
    """Prints as visits end. `clock`: monotonic seconds."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._walls: list[float] = []
        self._status: Status | None = console.status("starting") if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._status:
            self._status.stop()

    def say(self, line: str) -> None:
        """One plain line that stays."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def visit_ended(self, line: str, wall_s: float) -> None:
        self._walls.append(wall_s)
        self.say(line)

    def left(self, visits: int, running: int, machines: int, doing: str) -> None:
        """Redraws the line below: `visits` blocks wait or run, on `machines` at a time."""
        if not self._status:
            return
        elapsed = self._clock() - self._began
        eta = f", about {self._minutes(visits * median(self._walls) / max(1, machines))} left" if self._walls else ""
        line = f"{visits} visits to go, {running} running{eta}; {self._minutes(elapsed)} so far. {doing}"
        # no markup: what hosts say may look like it
        self._status.update(Text(printable(line)))

    @staticmethod
    def _minutes(seconds: float) -> str:
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
