"""Clock, machines, researchers and faults of one seed; the invariants after every step.

A step is a callback of a controller, something that happens on a host, a message delivered, or an effect.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from core.events import Entry, HostFault
from core.protocol import Answer, Call, Observation
from tests.simulation import invariants
from tests.simulation.invariants import Violation, hold
from tests.simulation.life import Life
from tests.simulation.machine import Actor, Machine, Runner
from tests.simulation.matrices import Nature
from tests.simulation.network import Network, Weather
from tests.simulation.researcher import Researcher
from tests.simulation.schedule import CALM_S, FAULTS_S, Scenario, Schedule
from workers.host.service import TICK_S
from workers.host.spool import Spool


class World:
    """One seed's. `truth`: every line any spool ever showed. `strokes`: (ledger, job) -> failures that were not its
    doing and could have been. `tally`: what was spent."""

    def __init__(self, seed: int, scenario: Scenario, root: Path) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.jump_ns = 0
        self.steps = 0
        self.is_calm = False
        self.log: list[str] = []
        self.fired: Counter[str] = Counter()
        self.tally: Counter[str] = Counter()
        self.truth: dict[tuple[str, int], Entry] = {}
        self.stored: dict[str, int] = {}
        self.strokes: Counter[tuple[str, str]] = Counter()
        self.full_disks: set[Path] = set()
        self._broken: Violation | None = None
        self._starts: Counter[tuple[str, int]] = Counter()
        self._heard: dict[str, float] = {}
        self._obeyed: dict[tuple[Actor, str], tuple[int, int]] = {}
        self._natures: dict[str, Nature] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count(1)
        self._root = root
        self.schedule = Schedule(scenario, self.random)
        self.network = Network(self, self.schedule.weather)
        self.machines = {
            spec.name: Machine(self, spec.name, spec.machine, root / "hosts") for spec in self.schedule.hosts
        }
        self.researchers: list[Researcher] = []

    def begin(self) -> None:
        """Everybody comes in and starts."""
        for n, matrices in enumerate(self.schedule.matrices()):
            self.researchers.append(Researcher(self, self._root / f"ledger{n}.db", matrices, self.schedule.hosts))
        for at, fault in self.schedule.faults(self):
            self.later(at, fault)
        self.later(FAULTS_S, self._calm)

    def run(self) -> None:
        """To the end. Raises Violation."""
        while not self._is_over():
            self._step(float("inf"))
        with self.judged():
            for researcher in self.researchers:
                if not researcher.has_left:
                    researcher.audit.look_at_the_end()
                    self.tally += researcher.audit.tally()
        self.tally["seconds"] = round(self.now)

    def end(self) -> None:
        """Leaves nothing behind, however it went."""
        for researcher in self.researchers:
            researcher.audit.close()
            if researcher.life is not None:
                researcher.life.kill("the end of the simulation")
                researcher.life.end()
        for machine in self.machines.values():
            machine.kill()

    # -- what everything here uses ------------------------------------------------------------------------------------

    def number(self) -> int:
        return next(self._numbers)

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, self.number(), do))

    def wall_ns(self) -> int:
        """The time that people read: it may jump."""
        return 1_700_000_000_000_000_000 + int(self.now * 1e9) + self.jump_ns

    def trace(self, line: str) -> None:
        """Without the names that are another at every run."""
        for name in (f"{self._root}/", *(r.ledger_id for r in self.researchers)):
            line = line.replace(name, "")
        self.log.append(f"{self.now:8.3f} {line}")

    def nature(self, job: str) -> Nature:
        if job not in self._natures:
            self._natures[job] = self.schedule.nature(job)
        return self._natures[job]

    def ledger_of(self, spool: Spool) -> str:
        return spool._directory.name

    def last_seq(self, spool_id: str) -> int:
        """The newest line that a spool has shown."""
        return max((seq for spool, seq in self.truth if spool == spool_id), default=0)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """A violation ends the simulation, whoever it is raised in and swallowed by."""
        try:
            yield
        except Violation as violation:
            self._broken = self._broken or violation
            raise

    # -- time ---------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float, life: Life) -> None:
        """Everything goes on but this controller."""
        until = self.now + seconds
        life.busy = True
        while self._step(until):
            pass
        life.busy = False
        self.now = max(self.now, until)

    def _step(self, until: float) -> bool:
        """The next thing that happens. False when that is later than `until`."""
        at, life = self._queue[0][0] if self._queue else float("inf"), None
        for researcher in self.researchers:
            if researcher.life is not None and researcher.life.due() <= at:
                at, life = researcher.life.due(), researcher.life
        if at > until:
            return False
        hold(at < float("inf"), 2, "nothing will ever happen again")
        self.now = max(self.now, at)
        self.steps += 1
        if life is not None:
            life.loop.step()
        else:
            heapq.heappop(self._queue)[2]()
        for researcher in self.researchers:
            researcher.after_step()
        self._check()
        return True

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken
        for machine in self.machines.values():
            # what was frozen reads first what was waiting for it
            if self.now >= machine.frozen_until + invariants.STOPPING_S + TICK_S:
                for runner in machine.runners:
                    if runner.lives:
                        invariants.i4_no_orphan(machine, runner, self.now - self._heard[machine.name])

    def _calm(self) -> None:
        """Faults are over."""
        self.trace("calm")
        self.is_calm = True
        self.network.weather = Weather()
        self.full_disks.clear()
        for machine in self.machines.values():
            machine.calm()

    def _is_over(self) -> bool:
        if self.is_calm and all(r.finished and r.life is None for r in self.researchers):
            return True
        if self.now > FAULTS_S + CALM_S:
            left = [r.audit.incomplete() for r in self.researchers]
            raise Violation(f"I2: not complete {CALM_S:.0f} s after the last fault: {left}")
        return False

    # -- what hosts and controllers tell ------------------------------------------------------------------------------

    def forked(self, machine: Machine, runner: Runner, process: int, ledger: str) -> None:
        (whose,) = (r.path.stem for r in self.researchers if r.ledger_id == ledger)
        self.trace(f"{machine.name} runs visit {runner.visit} of {whose}, process {process}")
        self._starts[ledger, runner.visit] += process == 1
        with self.judged():
            invariants.i1_a_visit_starts_once(self._starts[ledger, runner.visit], runner.visit)
            invariants.i3_one_runner(machine)

    def opening(self, machine: Machine) -> None:
        with self.judged():
            invariants.i3_no_runner_beside_an_opening(machine)

    def obeyed(self, actor: Actor, call: Call, reply: Observation | None) -> None:
        """The host took a call, and this is what it says at once."""
        if reply is not None and reply.answer in (Answer.STALE, Answer.HELD):
            return
        self._heard[actor.machine.name] = self.now
        before = self._obeyed.get((actor, call.ledger_id), (0, 0))
        self._obeyed[actor, call.ledger_id] = call.order
        with self.judged():
            invariants.i3_newest_call(actor.machine, call.order, before)
            if call.spool_id is not None:
                invariants.i9_acknowledged_is_stored(call, self.stored.get(call.spool_id, 0))

    def ingesting(self, spool_id: str, entries: Sequence[Entry]) -> None:
        with self.judged():
            for entry in entries:
                invariants.i5_a_line_is_what_was_written(entry, self.truth.get((spool_id, entry.seq)))

    def shown(self, spool_id: str, entry: Entry) -> None:
        with self.judged():
            invariants.i5_a_line_is_what_was_written(entry, self.truth.setdefault((spool_id, entry.seq), entry))

    def tear(self, spool: Spool) -> None:
        """What a write leaves that was under way when its process died."""
        newest = max(spool._directory.glob("*.jsonl"), default=None)
        if newest is not None and not spool.broken:
            self.fired["torn line"] += 1
            with newest.open("ab") as file:
                file.write(HostFault(fault="half a line").model_dump_json().encode()[:9])
