"""`sync` under fire: the real host's side, the real controller's side and the real spool, on a simulated clock.

A network that loses, doubles, delays and reorders calls and replies, calls also beyond the end of who sent them;
actors that die and come back on the same disk; disks that are lost; controllers that are killed and followed by the
next epoch.
After every step the invariants of `World.check` hold. With one of DESIGN §4's rules taken out, they do not.

Replay one seed:  HILLCLIMB_SIM_SEED=17 python -m pytest tests/workers/test_sync_simulated.py -k every_rule
"""

import heapq
import os
import random
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from core.events import Entry, RunEnded, RunnerBegan, RunnerExited, Samples, VisitBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.protocol import Alive, Answer, Call, Controller, HostHeld, Mode, Observation
from core.visit import Phase, Slot, Visit
from orchestrator.link import ANSWER_S, Adopt, Health, Ingest, Link, Outcome
from workers.host.recovery import open_spool
from workers.host.spool import Spool
from workers.supervisor import Stop
from workers.sync import SyncHost

SEEDS = 1000
ORPHAN_S = 30.0
KILL_S = 1.0
# Faults begin until FAULTS_S and may last 45 s; what was sent arrives LATE_S later; after CALM_S everything must have
# come to its end.
LATE_S = 20.0
FAULTS_S = 70.0
CALM_S = 150.0

LEDGER = "ledger"
ME = Controller(user="sim", machine="sim", pid=1)
JOB = SelftestJob()


class Violation(AssertionError):
    """An invariant does not hold."""


class Lock:
    """The host's lock: held by an actor that lives."""

    def __init__(self, machine: "Machine", actor: "Actor") -> None:
        self._machine = machine
        self._actor = actor

    def acquire(self, controller: Controller, since: str) -> HostHeld | None:
        holder = self._machine.lock_holder
        if holder is not None and holder.lives:
            return HostHeld(user=controller.user, controller="another actor", since=since)
        self._machine.lock_holder = self._actor
        return None

    def release(self) -> None:
        self._machine.lock_holder = None


class Execution:
    """A visit that takes its steps one by one: every step is a write of the spool, in the actor's disk queue."""

    def __init__(self, actor: "Actor", visit: Visit, spool: Spool, order: tuple[int, int]) -> None:
        self._actor = actor
        self._visit = visit
        self._spool = spool
        self._stop: Stop | None = None
        self._patience = 0.0
        # One visit in eight outlasts the orphan clock.
        random = actor.world.random
        self._long_s = random.uniform(35.0, 50.0) if random.random() < 0.12 else 0.0
        self._steps: deque[tuple[object, ...]] = deque()
        for slot in visit.slots:
            self._steps.append((Samples(slot=slot.slot, wall_ns=(1, 2)), RunEnded(slot=slot.slot, outcome="ok")))
        self._steps.append((RunnerExited(process=1, exit_status="exit 0"),))
        actor.on_disk(partial(spool.begin, visit.visit, order, "sitting"), then=self._fork)

    @property
    def visit(self) -> int:
        return self._visit.visit

    def stop(self, why: Stop) -> None:
        self._stop = self._stop or why

    def alive(self) -> Alive:
        return Alive(visit=self.visit, slot=0, phase=Phase.MEASURE, ended_slots=0, phase_s=0.0)

    def _write(self, *bodies: object, then: Callable[[], None]) -> None:
        self._actor.on_disk(partial(self._spool.append, self.visit, bodies), then=then)

    def _fork(self) -> None:
        if self._stop is None:
            self._actor.machine.fork(self.visit)
            began = RunnerBegan(process=1, pid=1, start_time=1, slots=tuple(slot.slot for slot in self._visit.slots))
            self._write(began, then=self._step_later)
        else:
            self._step()

    def _step_later(self) -> None:
        """After a step's time, or soon when the visit is to stop."""
        self._patience = self._long_s or self._actor.world.random.uniform(0.1, 3.0)
        self._long_s = 0.0
        self._wait()

    def _wait(self) -> None:
        self._patience -= KILL_S / 2
        if self._stop is not None or self._patience <= 0:
            self._step()
        else:
            self._actor.later(KILL_S / 2, self._wait)

    def _step(self) -> None:
        match self._stop:
            case None if self._steps:
                self._write(*self._steps.popleft(), then=self._step_later)
                return
            case None:
                end = VisitEnded(state="finished")
            case Stop.CANCELLED:
                end = VisitEnded(state="cancelled")
            case Stop.ORPHANED:
                end = VisitEnded(state="failed", kind=Kind.ORPHANED)
        self._actor.machine.runner = None
        self._write(end, then=self._actor.core.ended)


class Actor:
    """One actor: `workers.host.service` without an event loop. What it had not done when it dies is never done."""

    def __init__(self, machine: "Machine") -> None:
        self.world = machine.world
        self.machine = machine
        self.lives = True
        self._jobs: deque[tuple[Callable[[], None], Callable[[], None] | None]] = deque()
        self._waiting: list[tuple[Call, float]] = []
        self.core = SyncHost("host", ORPHAN_S, Lock(machine, self), self)
        self._tick()

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        self.world.later(delay_s, lambda: do() if self.lives else None)

    def receive(self, call: Call) -> None:
        now = self.world.now
        reply = self.core.claim(call, now) or self.core.obey(call, now)
        if reply is None or reply.answer not in (Answer.STALE, Answer.HELD):
            self.machine.heard = now
        if reply is None:
            self._waiting.append((call, now + call.wait_s))
            self.later(call.wait_s, self._poll)
        else:
            self.world.send_reply(reply)
        self._poll()

    def _poll(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call, deadline in waiting:
            reply = self.core.heartbeat(call) if self.world.now >= deadline else self.core.poll(call)
            if reply is None:
                self._waiting.append((call, deadline))
            else:
                self.world.send_reply(reply)

    def _tick(self) -> None:
        self.core.tick(self.world.now)
        self.later(1.0, self._tick)

    def _work(self) -> None:
        change, then = self._jobs.popleft()
        change()
        if then is not None:
            then()
        self._poll()

    # -- workers.sync.Surroundings

    def wall_clock(self) -> str:
        return "now"

    def open_spool(self, ledger_id: str) -> Spool:
        if self.machine.runner is not None:
            raise Violation("a spool is opened beside a runner")
        return open_spool(self.machine.disk / ledger_id, lambda: 0, end=lambda _: [])

    def on_disk(self, change: Callable[[], None], then: Callable[[], None] | None = None) -> None:
        self._jobs.append((change, then))
        self.later(self.world.random.choice((0.001, 0.01, 0.2)), self._work)

    def recover(self) -> None:
        pass

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> Execution:
        return Execution(self, visit, spool, order)


class Machine:
    """The host: a disk, a lock, at most one actor and its runner."""

    def __init__(self, world: "World", root: Path) -> None:
        self.world = world
        self._root = root
        self._disks = 0
        self.lock_holder: Actor | None = None
        self.runner: int | None = None
        self.starts: Counter[int] = Counter()
        self.heard = 0.0
        self.actor: Actor | None = None
        self._new_disk()
        self.restart()

    def _new_disk(self) -> None:
        self._disks += 1
        self.disk = self._root / str(self._disks)
        self.disk.mkdir()

    def fork(self, visit: int) -> None:
        self.starts[visit] += 1
        if self.starts[visit] > 1:
            raise Violation(f"visit {visit} is started a second time")
        if self.runner is not None:
            raise Violation(f"visit {visit} is started beside the runner of visit {self.runner}")
        self.runner = visit

    def kill(self) -> None:
        """The actor dies, and its runner with it."""
        if self.actor is not None:
            self.actor.lives = False
            self.actor = None
            self.runner = None

    def lose_disk(self) -> None:
        self.kill()
        self._new_disk()

    def restart(self) -> None:
        if self.actor is None:
            self.actor = Actor(self)


class Ledger:
    """What outlives a controller. Takes each line of a spool once."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.epoch = 0
        self.visits: dict[int, str] = {}
        self.ended_as: dict[int, str] = {}
        self.spool: str | None = None
        self.acked: dict[str, int] = {}

    def commit(self, spool_id: str, entries: tuple[Entry, ...]) -> int:
        for entry in entries:
            if entry != self._world.truth.get((spool_id, entry.seq)):
                raise Violation(f"line {entry.seq} is not what the host wrote")
            if entry.seq <= self.acked[spool_id]:
                continue
            if entry.seq != self.acked[spool_id] + 1:
                raise Violation(f"line {entry.seq} follows line {self.acked[spool_id]}")
            self.acked[spool_id] = entry.seq
            self._apply(entry)
        return self.acked[spool_id]

    def _apply(self, entry: Entry) -> None:
        if entry.visit is None:
            return
        match entry.body:
            case VisitBegan() if self.visits[entry.visit] == "leased":
                self.visits[entry.visit] = "running"
            case VisitEnded(state=state):
                if entry.visit in self.ended_as:
                    raise Violation(f"visit {entry.visit} ends twice")
                if state == "cancelled" and self.visits[entry.visit] in ("leased", "running"):
                    raise Violation(f"visit {entry.visit} was cancelled and nobody asked for it")
                self.ended_as[entry.visit] = state
                self.visits[entry.visit] = "ended"

    def open_visits(self) -> list[int]:
        return [visit for visit, state in self.visits.items() if state in ("leased", "running")]

    def lose_visits(self) -> None:
        for visit, state in self.visits.items():
            if state in ("leased", "running", "cancelling"):
                self.visits[visit] = "lost"


class Driver:
    """A controller: one call at a time, one reply at a time, ledger first."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.lives = True
        self._ledger = world.ledger
        self._ledger.epoch += 1
        spool = self._ledger.spool
        acked = self._ledger.acked[spool] if spool else 0
        self.link = Link(LEDGER, ME, self._ledger.epoch, spool, acked, world.now)
        self._outstanding: Call | None = None
        self._inbox: deque[Observation] = deque()
        self._busy = False
        self.view: Observation | None = None
        self._call()

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        self.world.later(delay_s, lambda: do() if self.lives else None)

    def _call(self) -> None:
        now = self.world.now
        health = self.link.health(now)
        ledger = self._ledger
        if health is Health.LOST:
            ledger.lose_visits()
        if health is Health.FINE and not ledger.open_visits() and now < FAULTS_S:
            ledger.visits[len(ledger.visits) + 1] = "leased"
        for visit in ledger.open_visits():
            if self.world.random.random() < 0.01:
                ledger.visits[visit] = "cancelling"
        slots = (Slot(slot=0, job=JOB),)
        desired = tuple(Visit(visit=visit, slots=slots, iters=2, warmup=0) for visit in ledger.open_visits())
        call = self.link.next_call(desired, Mode.RUN, now)
        self._outstanding = call
        self.world.send_call(call)
        self._later(call.wait_s + ANSWER_S, lambda: self._miss(call))

    def _miss(self, call: Call) -> None:
        if self._outstanding is call:
            self.link.on_miss(call.order, self.world.now)
            self._outstanding = None
            self._call()

    def receive(self, reply: Observation) -> None:
        self._inbox.append(reply)
        self._read()

    def _read(self) -> None:
        if self._busy or not self._inbox:
            return
        self._busy = True
        reply = self._inbox.popleft()
        outcome = self.link.on_reply(reply, self.world.now)
        if isinstance(outcome, Ingest):
            self._see(reply)
        # A controller can be killed before the ledger's commit, and between it and what follows from it.
        self._soon(lambda: self._store(reply, outcome))

    def _soon(self, do: Callable[[], None]) -> None:
        self._later(self.world.random.choice((0.0, 0.01)), do)

    def _store(self, reply: Observation, outcome: Outcome) -> None:
        done: Callable[[], None] | None = None
        match outcome:
            case Ingest(entries=entries):
                acked = self._ledger.commit(reply.spool_id, entries)
                self._close_cancelled(reply)
                done = partial(self.link.committed, reply.spool_id, acked)
            case Adopt(spool_id=spool_id):
                if spool_id in self._ledger.acked and spool_id != self._ledger.spool:
                    raise Violation(f"spool {spool_id} is back, which was lost with its disk")
                self._ledger.lose_visits()
                self._ledger.spool = spool_id
                acked = self._ledger.acked.setdefault(spool_id, 0)
                done = partial(self.link.adopted, spool_id, acked)
        self._soon(lambda: self._after(reply, done))

    def _after(self, reply: Observation, done: Callable[[], None] | None) -> None:
        if done is not None:
            done()
        self._busy = False
        if self._outstanding is not None and reply.order == self._outstanding.order:
            self._outstanding = None
            self._call()
        self._read()

    def _see(self, reply: Observation) -> None:
        before = self.view
        if before is not None and before.spool_id == reply.spool_id and reply.last_seq < before.last_seq:
            raise Violation(f"the view goes back from line {before.last_seq} to line {reply.last_seq}")
        self.view = reply

    def _close_cancelled(self, reply: Observation) -> None:
        """A visit that the host was told not to want, does not run and says nothing about, never began."""
        if self._ledger.acked[reply.spool_id] != reply.last_seq or self._outstanding is None:
            return
        alive = {alive.visit for alive in reply.alive}
        wanted = {visit.visit for visit in self._outstanding.desired}
        for visit, state in self._ledger.visits.items():
            if state == "cancelling" and visit not in alive | wanted and reply.order == self._outstanding.order:
                self._ledger.visits[visit] = "cancelled"


class World:
    """Clock, network and faults of one seed."""

    def __init__(self, seed: int, root: Path, truth: dict[tuple[str, int], Entry]) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.truth = truth
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._cut_until = 0.0
        self.machine = Machine(self, root)
        self.ledger = Ledger(self)
        self.driver: Driver | None = None
        self._drive()
        for _ in range(self.random.randint(0, 8)):
            self.later(self.random.uniform(0, FAULTS_S), self._fault)

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._count, do))

    def _drive(self) -> None:
        if self.driver is None:
            self.driver = Driver(self)

    def _fault(self) -> None:
        away_s = self.random.choice((0.1, 1.0, 5.0, 20.0, 45.0))
        match self.random.choice(("actor", "actor", "disk", "controller", "controller", "link")):
            case "actor":
                self.machine.kill()
                self.later(away_s, self.machine.restart)
            case "disk":
                self.machine.lose_disk()
                self.later(away_s, self.machine.restart)
            case "controller":
                if self.driver is not None:
                    self.driver.lives = False
                    self.driver = None
                self.later(away_s, self._drive)
            case "link":
                self._cut_until = self.now + away_s

    def _carry(self, deliver: Callable[[], None]) -> None:
        """Deliver now, later, twice or never."""
        calm = self.now > FAULTS_S
        if not calm and (self.now < self._cut_until or self.random.random() < 0.08):
            return
        for _ in range(2 if not calm and self.random.random() < 0.1 else 1):
            odd = not calm and self.random.random() < 0.15
            self.later(self.random.uniform(0.1, LATE_S) if odd else self.random.uniform(0.001, 0.05), deliver)

    def send_call(self, call: Call) -> None:
        """To the actor it was meant for, as Ray does: what is queued at an actor dies with it."""
        actor = self.machine.actor
        if actor is not None:
            self._carry(lambda: actor.receive(call) if actor.lives else None)

    def send_reply(self, reply: Observation) -> None:
        """To the controller that asked: another one never sees it."""
        driver = self.driver
        if driver is not None and driver.link.epoch == reply.epoch:
            self._carry(lambda: driver.receive(reply) if driver.lives else None)

    def check(self) -> None:
        machine, ledger = self.machine, self.ledger
        if machine.runner is not None and self.now - machine.heard > ORPHAN_S + KILL_S + 2.0:
            raise Violation(f"the runner of visit {machine.runner} is an orphan for {self.now - machine.heard:.0f} s")
        link = self.driver.link if self.driver else None
        if link is not None and link.spool_id is not None and link.acked_seq > ledger.acked[link.spool_id]:
            raise Violation(f"line {link.acked_seq} is acknowledged and not in the ledger")

    def run(self) -> None:
        look = FAULTS_S + LATE_S
        while True:
            self.now, _, do = heapq.heappop(self._queue)
            do()
            self.steps += 1
            self.check()
            if self.now >= look:
                if self.has_ended():
                    return
                look = self.now + 1.0

    def has_ended(self) -> bool:
        """Everything came to its end; raises why not when it no longer can."""
        try:
            self.check_end()
        except Violation:
            if self.now < FAULTS_S + CALM_S:
                return False
            raise
        return True

    def check_end(self) -> None:
        ledger = self.ledger
        unfinished = {v: s for v, s in ledger.visits.items() if s not in ("ended", "lost", "cancelled")}
        if unfinished:
            raise Violation(f"visits without an end: {unfinished}")
        if self.machine.runner is not None:
            raise Violation(f"visit {self.machine.runner} runs for nobody")
        view = self.driver.view if self.driver else None
        if view is None or view.alive or view.spool_id != ledger.spool or view.last_seq != ledger.acked[view.spool_id]:
            raise Violation(f"the controller's view is not the host's: {view}")
        written = max((seq for spool, seq in self.truth if spool == ledger.spool), default=0)
        if ledger.acked[view.spool_id] != written:
            raise Violation(f"line {ledger.acked[view.spool_id]} of {written} is the last in the ledger")


@contextmanager
def traced() -> Iterator[dict[tuple[str, int], Entry]]:
    """Every line any spool ever shows. A number means one line for ever."""
    truth: dict[tuple[str, int], Entry] = {}
    show = Spool._show

    def tracing(spool: Spool, lines: list) -> None:
        for line in lines:
            if truth.setdefault((spool.id, line.entry.seq), line.entry) != line.entry:
                raise Violation(f"line {line.entry.seq} of spool {spool.id} has changed")
        show(spool, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "_show", tracing)
        # Nothing here cuts the power, so nothing has to wait for a disk.
        patch.setattr(os, "fsync", lambda _: None)
        yield truth


def simulate(seed: int, root: Path) -> World:
    place = root / str(seed)
    place.mkdir()
    try:
        with traced() as truth:
            world = World(seed, place, truth)
            world.run()
        return world
    finally:
        shutil.rmtree(place)


def replay(seed: int) -> str:
    return f"replay: HILLCLIMB_SIM_SEED={seed} python -m pytest {Path(__file__).name} -k every_rule"


def seeds() -> list[int]:
    chosen = os.environ.get("HILLCLIMB_SIM_SEED")
    return [int(chosen)] if chosen else list(range(SEEDS))


def test_simulated_sync_with_every_rule_keeps_the_invariants(tmp_path: Path) -> None:
    states: Counter[str] = Counter()
    for seed in seeds():
        try:
            world = simulate(seed, tmp_path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}; {replay(seed)}") from error
        states.update(world.ledger.visits.values())
        states.update(world.ledger.ended_as.values())
    if len(seeds()) == SEEDS:
        # The faults fired, and work was done in spite of them.
        assert min(states[state] for state in ("finished", "failed", "cancelled", "lost")) > SEEDS / 10


# Where each rule stands, and what stands there when it is taken out.
RULES = {
    "start once": (Spool, "may_start", lambda _spool, _visit: True),
    "spool identity": (SyncHost, "_names_spool", lambda _host, call: call.spool_id is not None),
    "reply order": (Link, "_is_newer", lambda _link, _reply: True),
    "call order": (SyncHost, "_is_newest", lambda _host, _call: True),
}


@pytest.mark.parametrize("rule", RULES)
def test_simulated_sync_without_a_rule_breaks_an_invariant(rule: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(*RULES[rule])
    for seed in range(SEEDS):
        try:
            simulate(seed, tmp_path)
        except Violation:
            return
    pytest.fail(f"no seed of {SEEDS} notices that the rule of {rule} is gone")
