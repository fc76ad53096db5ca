"""A visit being executed, without processes: what `workers.supervisor` does, as steps in simulated time.

It writes what the supervisor writes, in its order, through the actor's disk queue. The runner is an object on the
machine: who else dies with it, and who may not be started beside it, is the machine's to know.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from core.events import PhaseBegan, RunEnded, RunnerBegan, RunnerExited, Samples, VisitEnded
from core.failures import Kind
from core.protocol import Alive
from core.visit import Phase, Slot, Visit
from tests.simulation.matrices import Nature
from workers.host.spool import Spool
from workers.supervisor import LAST_DEATH, Stop, end_from_outside

if TYPE_CHECKING:
    from tests.simulation.machine import Actor, Runner

# TERM, grace, KILL.
KILL_S = 1.0
# How long a hanging job is waited for: the deadline of its phase.
DEADLINE_S = 8.0

# What a simulated process yields: seconds to wait, or a change of the disk to wait for.
Wait = float | Callable[[], object]


def sample_ns(visit: int, slot: int) -> int:
    """The time of every iteration of a run: tells in the ledger which visit and slot it is of."""
    return visit * 1000 + slot


class Execution:
    """`workers.sync.Execution`."""

    def __init__(self, actor: "Actor", visit: Visit, spool: Spool, order: tuple[int, int]) -> None:
        self._actor = actor
        self._visit = visit
        self._spool = spool
        self._order = order
        self._ledger = actor.world.ledger_of(spool)
        self._stop: Stop | None = None
        self._ended: list[int] = []

    @property
    def visit(self) -> int:
        return self._visit.visit

    def stop(self, why: Stop) -> None:
        self._stop = self._stop or why

    def alive(self) -> Alive:
        return Alive(visit=self.visit, slot=None, phase=Phase.MEASURE, ended_slots=len(self._ended), phase_s=0.0)

    def run(self) -> Iterator[Wait]:
        """The whole visit, from its durable beginning to its last word."""
        yield partial(self._spool.begin, self.visit, self._order, self._actor.sitting)
        if self._has_code():
            end = yield from self._processes()
        else:
            self._actor.world.tally["visits without their code"] += 1
            end = VisitEnded(state="failed", kind=Kind.ENVIRONMENT_MISMATCH, reason="its code is not here")
        yield self._write(end)
        self._actor.core.ended()

    def _has_code(self) -> bool:
        """`workers.host.code.Codes.of`."""
        refs = {code: self._visit.bundles.get(code) for code in {slot.job.code for slot in self._visit.slots} if code}
        return all(ref is not None and ref.id in self._actor.machine.bundles for ref in refs.values())

    def _write(self, *bodies: object) -> Wait:
        return partial(self._spool.append, self.visit, bodies)

    def _processes(self) -> Generator[Wait, None, VisitEnded]:
        deaths = process = 0
        while remaining := [slot for slot in self._visit.slots if slot.slot not in self._ended]:
            yield 0.1
            seen = self._actor.probe()
            self._actor.core.probed(seen)
            yield self._write(seen)
            if end := end_from_outside(self._spool.broken, self._stop):
                return end
            if seen.kind is not None:
                return VisitEnded(state="failed", kind=seen.kind, reason=seen.reason)
            process += 1
            death = yield from self._process(process, remaining)
            if end := end_from_outside(self._spool.broken, self._stop):
                return end
            deaths += death is not None
            if death is not None and deaths == LAST_DEATH:
                return VisitEnded(state="failed", kind=death, reason="the second death")
        return VisitEnded(state="finished")

    def _process(self, process: int, slots: Sequence[Slot]) -> Generator[Wait, None, Kind | None]:
        """One runner. Returns the kind of its death, or None when it did what it was for."""
        runner = self._actor.machine.fork(self._actor, self.visit, process, self._ledger)
        yield self._write(RunnerBegan(process=process, pid=1, start_time=1, slots=tuple(slot.slot for slot in slots)))
        death = None
        for slot in slots:
            yield self._write(PhaseBegan(slot=slot.slot, phase=Phase.MEASURE))
            end = yield from self._measure(runner, slot)
            if self._stop or self._spool.broken:
                yield KILL_S
                yield self._write(RunEnded(slot=slot.slot, outcome="stopped", reason="ended from outside"))
                break
            self._ended.append(slot.slot)
            yield self._write(*end)
            death = _death(end[-1])
            if death is not None:
                break
        runner.end()
        yield self._write(RunnerExited(process=process, exit_status="exit 0" if death is None else "signal 6"))
        return death

    def _measure(self, runner: "Runner", slot: Slot) -> Generator[Wait, None, tuple[Samples | RunEnded, ...]]:
        """One slot. Returns what the runner, or its supervisor, says of its end."""
        machine, world = self._actor.machine, self._actor.world
        nature = world.nature(slot.job.id)
        left_s = DEADLINE_S if nature is Nature.HANGS else world.random.uniform(0.3, 4.0) * world.schedule.pace
        while left_s > 0 and not (self._stop or self._spool.broken or runner.killed):
            step_s = min(left_s, KILL_S)
            left_s -= step_s
            yield step_s
        kind = None
        if runner.killed:
            kind = Kind.KILLED
        elif machine.occupied is not None:
            kind = machine.occupied
        elif machine.cursed or nature is Nature.CRASHES:
            kind = Kind.CRASH
        elif nature is Nature.HANGS:
            kind = Kind.STALL
        elif nature is Nature.WRONG:
            kind = Kind.USER_ERROR
        if kind is not None:
            world.strokes[self._ledger, slot.job.id] += runner.killed or machine.cursed
            return (RunEnded(slot=slot.slot, outcome="failed", kind=kind, reason=f"{kind} here"),)
        samples = Samples(slot=slot.slot, wall_ns=(sample_ns(self.visit, slot.slot),) * self._visit.iters)
        return (samples, RunEnded(slot=slot.slot, outcome="ok"))


def _death(end: Samples | RunEnded) -> Kind | None:
    """What a run's end says of its runner: that lives on after what is no more than a wrong value."""
    return end.kind if isinstance(end, RunEnded) and end.kind is not Kind.USER_ERROR else None
