"""The host's side of `sync`: what a host does with a call (DESIGN §4).

Order    Only a call newer than all seen of its ledger is obeyed. What was seen outlives the actor as far as it matters:
         the order of the call that asked for the last start lies beside the visit's id on disk.
Once     A visit starts when its id is above every one begun (`Spool.may_start`), and is on disk before it does.
Spool    A call that names another spool changes nothing. One that acknowledges lines this spool never had shows that
         the disk went back in time: such a spool would say new things under old numbers, so it is renewed.
One      One visit runs at a time, the lowest id first; others wait. It ends before anything else begins.
Owner    One ledger owns the host, and with it the host's lock, from its first call on. The host is free again when the
         owner lets go (mode `drain`, nothing desired or running, every line acknowledged, and a whole long poll with
         nothing to say) or is silent for `orphan_s` and its visit has ended.
Orphan   Only obeyed calls count. After `orphan_s` without one the visit is stopped, whatever else happens.
Ladder   Climbed once per stay in mode `recover`, when no visit runs; nothing starts and the host is not let go before
         its end. What it does and finds goes to the owner's spool, and so does an idle host's turn to clean or unclean.
Person   Who drains a host by hand drains it for every ledger, until released; no call changes that.
Gone     A host that its provider is about to take away starts nothing for anybody, and shows no other probe than that.

Only mode `run` starts visits. `drain` lets the desired one finish. Synchronous and deterministic: time comes in with
every call, files and processes through what is given to the constructor, and waiting is the caller's
(`workers.host.service`).
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from core.events import Probed, Rung
from core.failures import Kind
from core.protocol import Alive, Answer, Call, Condition, Controller, HostHeld, Mode, Observation
from core.visit import Visit
from workers.host.duty import Duty
from workers.host.lock import held_by
from workers.host.spool import Spool
from workers.supervisor import Stop

# A clock that was not looked at for this long was stopped with its process: calls may be waiting unread, and the orphan
# clock is not judged before they had a chance to be. Far above the second between two ticks.
STALLED_S = 5.0


class Lock(Protocol):
    """The host's lock (`workers.host.lock.HostLock`)."""

    def acquire(self, controller: Controller, since: str) -> HostHeld | None: ...

    def release(self) -> None: ...


class Execution(Protocol):
    """A visit being executed (`workers.supervisor.Supervisor`)."""

    @property
    def visit(self) -> int: ...

    def stop(self, why: Stop) -> None: ...

    def alive(self) -> Alive: ...


class Surroundings(Protocol):
    """What a host has around it."""

    def wall_clock(self) -> str:
        """The time, for people."""
        ...

    def open_spool(self, ledger_id: str) -> Spool:
        """The ledger's spool, with no visit unfinished. Blocks."""
        ...

    def on_disk(self, change: Callable[[], None]) -> None:
        """Have a spool changed, after every change asked for before."""
        ...

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> Execution:
        """Begin `visit` in the spool, execute it, and call `SyncHost.ended` when its end is written."""
        ...

    def recover(self) -> None:
        """Climb the ladder: call `SyncHost.climbed` at every rung and `SyncHost.recovered` at its end."""
        ...


class _Owner(NamedTuple):
    ledger_id: str
    controller: Controller
    since: str


class _Ladder(Enum):
    DOWN = "down"
    ASKED = "asked"  # a visit runs yet
    CLIMBING = "climbing"


class SyncHost:
    """One host."""

    def __init__(self, host: str, orphan_s: float, lock: Lock, surroundings: Surroundings) -> None:
        self._host = host
        self._orphan_s = orphan_s
        self._lock = lock
        self._surroundings = surroundings
        self._owner: _Owner | None = None
        self._spool: Spool  # of the owner
        self._seen: dict[str, tuple[int, int]] = {}
        self._heard = 0.0
        self._ticked = 0.0
        self._mode = Mode.RUN
        self._desired: tuple[Visit, ...] = ()
        self._execution: Execution | None = None
        self._ladder = _Ladder.DOWN
        self._probe: Probed | None = None
        self._told_clean = True  # by the events of the owner's spool
        self._preempted: Probed | None = None
        self._duty = Duty(drained="", releases=0)

    # -- calls --------------------------------------------------------------------------------------------------------

    def claim(self, call: Call, now: float) -> Observation | None:
        """Make the caller's ledger the owner, if nobody is and the call is its newest. Returns the refusal otherwise.

        Every call begins here. May open a spool, which blocks: no visit runs then.
        """
        if not self._is_newest(call):
            return self._reply(call, Answer.STALE)
        if self._owns(call):
            return None
        if self._owner is not None:
            return self._reply(call, Answer.HELD, held_by(self._owner.controller, self._owner.since))
        since = self._surroundings.wall_clock()
        if held := self._lock.acquire(call.controller, since):
            return self._reply(call, Answer.HELD, held)
        try:
            self._spool = self._surroundings.open_spool(call.ledger_id)
        except BaseException:
            self._lock.release()
            raise
        self._seen.setdefault(call.ledger_id, self._spool.started.order)
        if not self._is_newest(call):
            self._release()
            return self._reply(call, Answer.STALE)
        self._heard = self._ticked = now
        self._desired, self._mode = (), Mode.RUN
        self._told_clean = True
        self._owner = _Owner(call.ledger_id, call.controller, since)
        return None

    def obey(self, call: Call, now: float) -> Observation | None:
        """Do what a call that `claim` let pass asks for. None: done, and nothing to say yet."""
        if not self._owns(call) or not self._is_newest(call):
            return self._reply(call, Answer.STALE)
        self._seen[call.ledger_id] = call.order
        self._heard = now
        if not self._names_spool(call):
            return self._reply(call, Answer.OTHER_SPOOL)
        if call.acked_seq > self._spool.last_seq and self._execution is None:
            had = f"line {call.acked_seq} is acknowledged and line {self._spool.last_seq} is the last"
            self._spool.renew(f"the disk went back in time: {had}")
            return self._reply(call, Answer.OTHER_SPOOL)
        spool, acked_seq = self._spool, call.acked_seq
        self._surroundings.on_disk(lambda: spool.acknowledge(acked_seq))
        self._ask_for_ladder(call.mode)
        self._desired, self._mode = call.desired, call.mode
        self._reconcile()
        return self.poll(call)

    def poll(self, call: Call) -> Observation | None:
        """What a waiting call is told now, or None while there is nothing new."""
        if not self._owns(call) or self._seen[call.ledger_id] != call.order:
            return self._reply(call, Answer.STALE)
        if self._spool.last_seq > call.acked_seq:
            return self._reply(call, Answer.OBEYED)
        return None

    def heartbeat(self, call: Call) -> Observation:
        """What a call is told that has waited long enough."""
        reply = self.poll(call)
        if reply is not None:
            return reply
        reply = self._reply(call, Answer.OBEYED)
        if self._mode is Mode.DRAIN and not self._desired and self.is_idle:
            self._release()
        return reply

    # -- what a person asks for ---------------------------------------------------------------------------------------

    def climb(self) -> str:
        """Climb the ladder now, whatever the mode. Returns why not, or "". The caller sees to the host's lock."""
        if self._execution is not None:
            return f"visit {self._execution.visit} runs: wait for its end, or cancel it"
        if self._ladder is not _Ladder.DOWN:
            return "the host is being recovered already: wait for its end"
        self._begin_ladder()
        return ""

    @property
    def duty(self) -> Duty:
        return self._duty

    def set_duty(self, duty: Duty) -> None:
        """Start no visit of any ledger, or start visits again."""
        self._duty = duty
        self._reconcile()

    # -- what happens on the host -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Nothing of ours has the accelerator, or is about to."""
        return self._execution is None and self._ladder is not _Ladder.CLIMBING

    @property
    def is_owned(self) -> bool:
        return self._owner is not None

    @property
    def condition(self) -> Condition:
        """How the host is, for a person."""
        owner = self._owner
        return Condition(
            host=self._host,
            probe=self._probe,
            held=held_by(owner.controller, owner.since) if owner else None,
            alive=self._alive(),
            draining=self._draining(),
        )

    def ended(self) -> None:
        """The visit that ran has written its end."""
        self._execution = None
        self._reconcile()

    def probed(self, seen: Probed) -> None:
        """What a look at the host showed. A visit that runs writes down its own; a disk with room is tried again."""
        seen = self._probe = self._preempted or seen
        if self._execution is None and seen.clean != self._told_clean:
            self._write(seen)
        self._told_clean = seen.clean
        if seen.clean and self._owner is not None and self._spool.broken:
            self._surroundings.on_disk(self._spool.mend)

    def preempted(self, why: str) -> None:
        """The machine is about to be taken away: nothing starts any more, what runs goes on while it can."""
        self._preempted = self._probe = Probed(clean=False, kind=Kind.PREEMPTED, reason=why)
        self._told_clean = False
        self._write(self._preempted)

    def climbed(self, rung: Rung) -> None:
        """The ladder has come this far."""
        self._write(rung)

    def recovered(self, seen: Probed) -> None:
        """The ladder is at its end, and this is what it left."""
        self._ladder = _Ladder.DOWN
        seen = self._probe = self._preempted or seen
        self._told_clean = seen.clean
        self._write(seen)
        self._reconcile()

    def tick(self, now: float) -> None:
        """Look at the orphan clock. Called about every second."""
        stalled = now - self._ticked > STALLED_S
        self._ticked = now
        if self._owner is None or stalled or now - self._heard <= self._orphan_s:
            return
        self._desired = ()
        if self._execution is not None:
            self._execution.stop(Stop.ORPHANED)
        elif self.is_idle:
            self._release()

    # -- the rules ----------------------------------------------------------------------------------------------------

    def _is_newest(self, call: Call) -> bool:
        """Order."""
        return call.order > self._seen.get(call.ledger_id, (0, 0))

    def _owns(self, call: Call) -> bool:
        """Owner."""
        return self._owner is not None and self._owner.ledger_id == call.ledger_id

    def _names_spool(self, call: Call) -> bool:
        """Spool."""
        return call.spool_id == self._spool.id

    def _reconcile(self) -> None:
        """Stop what is not desired, start what is desired and may start."""
        if self._execution is not None:
            if self._execution.visit not in {visit.visit for visit in self._desired}:
                self._execution.stop(Stop.CANCELLED)
            return
        if self._ladder is _Ladder.ASKED:
            self._begin_ladder()
        if self._owner is None or not self._takes_visits():
            return
        for visit in sorted(self._desired, key=lambda visit: visit.visit):
            if self._spool.may_start(visit.visit):
                order = self._seen[self._owner.ledger_id]
                self._execution = self._surroundings.execute(visit, self._spool, order)
                return

    def _takes_visits(self) -> bool:
        return self._mode is Mode.RUN and self.is_idle and not self._unfit() and not self._spool.broken

    def _ask_for_ladder(self, mode: Mode) -> None:
        """Ladder. Called before `mode` is taken over."""
        if mode is not Mode.RECOVER and self._ladder is _Ladder.ASKED:
            self._ladder = _Ladder.DOWN
        if mode is Mode.RECOVER and self._mode is not Mode.RECOVER and self._ladder is _Ladder.DOWN:
            self._ladder = _Ladder.ASKED

    def _begin_ladder(self) -> None:
        self._ladder = _Ladder.CLIMBING
        if self._owner is not None:
            self._surroundings.on_disk(self._spool.mend)
        self._surroundings.recover()

    def _write(self, body: Probed | Rung) -> None:
        """Have something of no visit in the owner's spool, if there is an owner."""
        if self._owner is not None:
            spool = self._spool
            self._surroundings.on_disk(lambda: spool.append(None, [body]))

    def _release(self) -> None:
        self._surroundings.on_disk(self._spool.close)
        self._owner = None
        self._lock.release()

    def _reply(self, call: Call, answer: Answer, held: HostHeld | None = None) -> Observation:
        """The observation for `call`; about the spool and the visits only when it is of the owner's ledger."""
        reply = Observation(
            host=self._host,
            epoch=call.epoch,
            generation=call.generation,
            answer=answer,
            probe=self._probe,
            held=held,
            draining=self._unfit(),
            releases=self._duty.releases,
        )
        if not self._owns(call):
            return reply
        update: dict[str, object] = {
            "spool_id": self._spool.id,
            "draining": self._draining(),
            "mode": self._mode,
            "recovering": self._ladder is not _Ladder.DOWN,
        }
        if answer is Answer.OBEYED:
            update |= {
                "entries": self._spool.read_after(call.acked_seq),
                "last_seq": self._spool.last_seq,
                "alive": self._alive(),
            }
        return reply.model_copy(update=update)

    def _unfit(self) -> str:
        """Why no visit of any ledger starts here, or ""."""
        return self._preempted.reason if self._preempted else self._duty.drained

    def _alive(self) -> tuple[Alive, ...]:
        return () if self._execution is None else (self._execution.alive(),)

    def _draining(self) -> str:
        """Why no visit starts here: what holds for every ledger, then what holds for the owner."""
        if self._owner is None or self._unfit():
            return self._unfit()
        return self._spool.broken or ("asked to drain" if self._mode is Mode.DRAIN else "")
