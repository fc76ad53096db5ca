"""The ladder: the ordered steps that free a busy accelerator, from the gentlest on.

holders    who has the chips or libtpu's lock, and whose are they
term, kill those that are ours and stale; foreign ones only where the pool says so, live ones of ours never
released   the descriptors are closed: a process that is gone has closed them, one that sits in the kernel has not
lockfile   libtpu's leftover is removed, if nobody has it locked
trial      a throw-away process starts the chips: nothing less shows that they can be started

Each step is said when it is done. The climb ends at the first step that leaves something in the way. Blocking, for as
long as the grace and the trial's deadline allow: it belongs in a thread, on a host that runs no visit.
"""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from core.events import Rung
from core.failures import Kind
from workers.host import lockfile
from workers.host.holders import Holder, Places, holders, summary
from workers.host.marks import Marks, Whose
from workers.host.process import GONE_S, POLL_S, Identity, end_by
from workers.host.trial import Trouble

# The kernel closes the descriptors of a dead process within milliseconds, unless a chip does not answer.
RELEASED_S = 10.0
# The rest of a long list tells a person nothing new.
_NAMED = 10

Step = Literal["holders", "term", "kill", "released", "lockfile", "trial"]


@dataclass(frozen=True)
class Ladder:
    """The ladder of one host."""

    places: Places
    marks: Marks
    grace_s: float
    kill_foreign: bool
    trial: Callable[[], Trouble | None]

    def climb(self, say: Callable[[Rung], None]) -> Trouble | None:
        """Free the accelerator, saying each rung. Returns what is still in the way."""
        found = self._holders()
        say(_rung("holders", not found, _named(found)))
        unkillable = self._end({h.identity for h in found if self._may_end(h)}, say)
        if found:
            found = self._await_release(unkillable)
            say(_rung("released", not found and not unkillable, _named(found)))
        if found:
            in_use = any(h.whose is not Whose.UNKILLABLE and not self._may_end(h) for h in found)
            return Trouble(Kind.TPU_BUSY, f"{summary(found)}: {_advice(found[0].whose)}", in_use)
        if unkillable:
            pids = _pids(unkillable)
            return Trouble(Kind.TPU_BUSY, f"{pids} held the accelerator and will not end: {_advice(Whose.UNKILLABLE)}")
        left = lockfile.remove(self.places.lockfile)
        say(_rung("lockfile", not left, left))
        if left:
            return Trouble(Kind.TPU_BUSY, left, in_use=True)
        trouble = self._try()
        say(_rung("trial", trouble is None, trouble.reason if trouble else ""))
        return trouble

    def _holders(self) -> list[Holder]:
        return holders(self.places, self.marks)

    def _may_end(self, holder: Holder) -> bool:
        match holder.whose:
            case Whose.STALE:
                return True
            case Whose.FOREIGN:
                return self.kill_foreign
            case Whose.LIVE | Whose.UNKILLABLE | Whose.INVISIBLE:
                return False

    def _end(self, doomed: set[Identity], say: Callable[[Rung], None]) -> list[Identity]:
        """TERM, grace, KILL: a killed libtpu leaves its chips without a reset. Returns those that live on."""
        left = sorted(doomed)
        steps: list[tuple[Step, signal.Signals, float]] = [
            ("term", signal.SIGTERM, self.grace_s),
            ("kill", signal.SIGKILL, GONE_S),
        ]
        for step, number, within_s in steps:
            if not left:
                break
            asked, left = left, end_by(number, left, within_s)
            outcome = f"{_pids(left)} live on after {within_s:g} s" if left else "gone"
            say(_rung(step, not left, f"{number.name} to {_pids(asked)}: {outcome}"))
        return left

    def _await_release(self, unkillable: list[Identity]) -> list[Holder]:
        """Wait until the ended holders have let go. Returns who holds on, by now known as what it is."""
        deadline = time.monotonic() + (0.0 if unkillable else RELEASED_S)
        found = self._holders()
        while any(map(self._may_end, found)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found = self._holders()
        return [h._replace(whose=Whose.UNKILLABLE) if h.identity in unkillable else h for h in found]

    def _try(self) -> Trouble | None:
        trouble = self.trial()
        if trouble is None or trouble.kind is not Kind.TPU_BUSY or self._holders():
            return trouble
        unseen = f"the holder is {Whose.INVISIBLE.value}: {_advice(Whose.INVISIBLE)}"
        return Trouble(trouble.kind, f"{trouble.reason}; {unseen}", in_use=not self.kill_foreign)


def _rung(step: Step, good: bool, detail: str) -> Rung:
    """Within the bounds of the event: a process may have put anything into its command."""
    return Rung(step=step, good=good, detail=detail[:4096])


def _pids(processes: list[Identity]) -> str:
    return "pid " + ", ".join(str(process.pid) for process in processes)


def _named(found: list[Holder]) -> str:
    return "; ".join([*map(str, found[:_NAMED]), *filter(None, [summary(found[_NAMED:])])])


def _advice(whose: Whose) -> str:
    """What a person can do about a holder that is still there."""
    match whose:
        case Whose.STALE:
            return "it came back while it was being ended; recover the host again"
        case Whose.LIVE:
            return "it measures; wait for its end"
        case Whose.FOREIGN:
            return "end it, or let the pool do so (`kill_foreign = true`)"
        case Whose.UNKILLABLE:
            return "it sits in the kernel; restart the host"
        case Whose.INVISIBLE:
            return "look for it as root and outside this container"
