"""The controller's side of one host's conversation: `sync` calls out, observations in (DESIGN §4).

Order    Calls are numbered by (epoch, generation). A reply to a call that is not newer than the last one handled is
         dropped: Ray runs calls in any order, and an old reply shows a host that is no more.
Spool    Every call names the spool that `acked_seq` is about. When the host has another, its open visits are lost and
         its lines are read from where the ledger is with that spool (0 for a new one). The ledger says so first: the
         new spool is named in a call only after `adopted`, so that no crash forgets whose visits the open ones are.
Lines    Those given to the ledger follow what it has, one by one. `acked_seq` grows when the ledger has committed them
         (`committed`), never before.
Health   One miss makes a host *suspect*: it gets no new visit. It is *lost* after LOST_MISSES misses in a row and
         LOST_S without a reply. A miss is a call seen unanswered by a controller that was awake. One that was itself
         stopped (SIGSTOP, a closed laptop) has seen nothing: after a stall everything about health begins anew. So it
         does while its own way to all hosts is gone: whom nobody asks is not silent.

Pure: time is the caller's monotonic clock, sending and storing are the caller's. It must be told of time at least as
often as calls come and go; every method with `now` does that.
"""

from dataclasses import dataclass
from enum import StrEnum

from core.events import Entry, HostFault
from core.protocol import PROTOCOL, Answer, Call, Controller, HostHeld, Mode, Observation
from core.visit import Visit

# How long a call may wait on the host for something to say: a heartbeat that costs nothing.
WAIT_S = 2.0
# How much longer its answer may take: a thousand round trips, or a raylet that is busy starting something. With WAIT_S
# it is how soon a host that is gone becomes suspect: below 5 s.
ANSWER_S = 2.5
# Two lost messages are bad luck.
LOST_MISSES = 3
# A host that is only restarting its actor (1-2 s), or a link that blinks, is back before.
LOST_S = 15.0
# Between a call and its answer or its miss lie at most WAIT_S + ANSWER_S. Twice that without a look is a stall.
STALLED_S = 2 * (WAIT_S + ANSWER_S)


class Health(StrEnum):
    UNKNOWN = "unknown"  # has not answered this controller since it came or woke up
    FINE = "fine"
    SUSPECT = "suspect"
    LOST = "lost"


@dataclass(frozen=True)
class Ingest:
    """Give these lines to the ledger (there may be none), then say `committed`."""

    observation: Observation
    entries: tuple[Entry, ...]
    fault: HostFault | None


@dataclass(frozen=True)
class Adopt:
    """The host has another spool. Store it and close the open visits of the `lost` one as lost, then say `adopted`.

    Said again until then.
    """

    spool_id: str
    lost: str | None


@dataclass(frozen=True)
class Held:
    """Another ledger or another actor owns the host: it takes no visit of ours."""

    held: HostHeld


@dataclass(frozen=True)
class Replace:
    """The actor speaks another version: it is replaced when nobody needs it."""

    protocol: int


@dataclass(frozen=True)
class Dropped:
    """The reply says nothing that counts."""

    why: str


Outcome = Ingest | Adopt | Held | Replace | Dropped


class Link:
    """The conversation with one host, from where the ledger is with it."""

    def __init__(
        self, ledger_id: str, controller: Controller, epoch: int, spool_id: str | None, acked_seq: int, now: float
    ) -> None:
        self._ledger_id = ledger_id
        self._controller = controller
        self._epoch = epoch
        self._spool_id = spool_id
        self._acked_seq = acked_seq
        self._generation = 0
        self._handled = (0, 0)
        self._missed = (0, 0)
        self._misses = 0
        self._answered = False
        self._looked = now
        self._quiet_since = now

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def spool_id(self) -> str | None:
        return self._spool_id

    @property
    def acked_seq(self) -> int:
        return self._acked_seq

    def next_call(self, desired: tuple[Visit, ...], mode: Mode, now: float, wait_s: float = WAIT_S) -> Call:
        """The next call, with the full set of visits the host should execute."""
        self._look(now)
        self._generation += 1
        return Call(
            ledger_id=self._ledger_id,
            controller=self._controller,
            epoch=self._epoch,
            generation=self._generation,
            spool_id=self._spool_id,
            acked_seq=self._acked_seq,
            mode=mode,
            desired=desired,
            wait_s=wait_s,
        )

    def on_reply(self, reply: Observation, now: float) -> Outcome:
        """What to do with a reply."""
        self._look(now)
        if reply.protocol != PROTOCOL:
            return Replace(reply.protocol)
        if not self._is_newer(reply):
            return Dropped("a newer call's reply was handled before")
        self._answered = True
        self._misses = 0
        self._quiet_since = now
        if reply.answer is Answer.STALE:
            return Dropped("the host has seen a newer call")
        self._handled = reply.order
        match reply.answer:
            case Answer.HELD if reply.held is not None:
                return Held(reply.held)
            case Answer.OTHER_SPOOL if reply.spool_id != self._spool_id:
                return Adopt(reply.spool_id, lost=self._spool_id)
            case Answer.OBEYED if reply.spool_id == self._spool_id:
                return self._ingest(reply)
            case _:
                return Dropped(f"{reply.answer} about spool {reply.spool_id or 'none'}, which needs nothing done")

    def on_miss(self, order: tuple[int, int], now: float) -> None:
        """The call of this order was not answered in time, or its actor is dead or unreachable."""
        stalled = self._look(now)
        if stalled or order <= max(self._handled, self._missed):
            return
        self._missed = order
        self._misses += 1

    def on_cut_off(self, now: float) -> None:
        """No host could be asked, this one no more than any other."""
        self._look(now)
        self._begin_anew(now)

    def committed(self, spool_id: str, acked_seq: int) -> None:
        """The ledger has every line of the spool up to this one."""
        if spool_id == self._spool_id:
            self._acked_seq = max(self._acked_seq, acked_seq)

    def adopted(self, spool_id: str, acked_seq: int) -> None:
        """The ledger knows that this is the host's spool, has these lines of it, and no open visit of another."""
        self._spool_id = spool_id
        self._acked_seq = acked_seq

    def health(self, now: float) -> Health:
        self._look(now)
        if self._misses >= LOST_MISSES and now - self._quiet_since >= LOST_S:
            return Health.LOST
        if not self._answered:
            return Health.UNKNOWN
        return Health.SUSPECT if self._misses else Health.FINE

    # -- the rules ----------------------------------------------------------------------------------------------------

    def _is_newer(self, reply: Observation) -> bool:
        """Order."""
        return reply.order > self._handled

    def _ingest(self, reply: Observation) -> Ingest:
        """Lines: those after what the ledger has, up to the first that is not the next one."""
        entries: list[Entry] = []
        fault = None
        for entry in reply.entries:
            if entry.seq <= self._acked_seq:
                continue
            follows = entries[-1].seq if entries else self._acked_seq
            if entry.seq != follows + 1:
                detail = f"spool {reply.spool_id} of {reply.host}: line {entry.seq} follows line {follows}"
                fault = HostFault(fault="gap in the spool", detail=detail)
                if entries:
                    break
            entries.append(entry)
        return Ingest(reply, tuple(entries), fault)

    def _look(self, now: float) -> bool:
        """Notice that this controller was itself stopped. Returns whether it was."""
        stalled = now - self._looked > STALLED_S
        if stalled:
            self._begin_anew(now)
        self._looked = now
        return stalled

    def _begin_anew(self, now: float) -> None:
        """Nothing is known of the host's health, and its silence begins now."""
        self._answered = False
        self._misses = 0
        self._quiet_since = now
