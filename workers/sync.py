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

Only mode `run` starts visits. `drain` lets the desired one finish; `recover` asks for a new probe and for the disk to
be tried again. Synchronous and deterministic: time comes in with every call, files and processes through what is given
to the constructor, and waiting is the caller's (`workers.host.service`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from core.events import Probed
from core.protocol import Alive, Answer, Call, Controller, HostHeld, Mode, Observation
from core.visit import Visit
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

    def look(self) -> None:
        """Probe the host and call `SyncHost.probed`."""
        ...


class _Owner(NamedTuple):
    ledger_id: str
    controller: Controller
    since: str


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
        self._probe: Probed | None = None

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
        self._desired = ()
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
        self._desired, self._mode = call.desired, call.mode
        if call.mode is Mode.RECOVER:
            self._surroundings.on_disk(spool.mend)
            self._surroundings.look()
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
        if self._mode is Mode.DRAIN and not self._desired and self._execution is None:
            self._release()
        return reply

    # -- what happens on the host -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self._execution is None

    def ended(self) -> None:
        """The visit that ran has written its end."""
        self._execution = None
        self._reconcile()

    def probed(self, seen: Probed) -> None:
        self._probe = seen

    def tick(self, now: float) -> None:
        """Look at the orphan clock. Called about every second."""
        stalled = now - self._ticked > STALLED_S
        self._ticked = now
        if self._owner is None or stalled or now - self._heard <= self._orphan_s:
            return
        self._desired = ()
        if self._execution is None:
            self._release()
        else:
            self._execution.stop(Stop.ORPHANED)

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
        if self._mode is not Mode.RUN or self._spool.broken:
            return
        for visit in sorted(self._desired, key=lambda visit: visit.visit):
            if self._spool.may_start(visit.visit):
                order = self._seen[self._owner.ledger_id] if self._owner else (0, 0)
                self._execution = self._surroundings.execute(visit, self._spool, order)
                return

    def _release(self) -> None:
        self._surroundings.on_disk(self._spool.close)
        self._owner = None
        self._lock.release()

    def _reply(self, call: Call, answer: Answer, held: HostHeld | None = None) -> Observation:
        """The observation for `call`; about the spool and the visits only when it is of the owner's ledger."""
        reply = Observation(
            host=self._host, epoch=call.epoch, generation=call.generation, answer=answer, probe=self._probe, held=held
        )
        if not self._owns(call):
            return reply
        update: dict[str, object] = {"spool_id": self._spool.id, "draining": self._draining()}
        if answer is Answer.OBEYED:
            update |= {
                "entries": self._spool.read_after(call.acked_seq),
                "last_seq": self._spool.last_seq,
                "alive": () if self._execution is None else (self._execution.alive(),),
            }
        return reply.model_copy(update=update)

    def _draining(self) -> str:
        if self._spool.broken:
            return self._spool.broken
        return "asked to drain" if self._mode is Mode.DRAIN else ""
