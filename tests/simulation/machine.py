"""A simulated host: a disk, a lock, an accelerator, at most one owning actor and its runner.

The actor serves the real `SyncHost` and the real spool as `workers.host.service` does: one disk queue, one call at a
time into the core, calls that wait for news, a tick a second. Everything takes simulated time and ends with the actor.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.events import Probed, Rung
from core.failures import Kind
from core.protocol import PROTOCOL, Answer, Call, Controller, HostHeld, Observation
from core.visit import Visit
from tests.simulation.execution import Execution, Wait
from workers.host.duty import Duty
from workers.host.lock import held_by
from workers.host.recovery import open_spool
from workers.host.service import GATHER_S, PROBE_EVERY_S, TICK_S
from workers.host.spool import Spool
from workers.sync import SyncHost

if TYPE_CHECKING:
    from tests.simulation.world import World

# So long an actor of another version works for somebody who speaks that version.
NEEDED_S = 30.0

# In place of 900 s, so that a minute of silence is one.
ORPHAN_S = 40.0

Respond = Callable[[Observation], None]


class Runner:
    """A process that has the accelerator. It inherits its actor's lock."""

    def __init__(self, actor: "Actor", visit: int) -> None:
        self.actor = actor
        self.visit = visit
        self.killed = False
        self.lives = True
        self._since = actor.world.now

    def end(self) -> None:
        if self.lives:
            self.lives = False
            self.actor.world.tally["device seconds"] += self.actor.world.now - self._since


class Machine:
    """What stays when actors come and go. `box`: the physical machine it shares with others. `named`: the actor that
    Ray knows by the host's name, dead or alive. `occupied`: how a visit would fail there. `cursed`: kills runners."""

    def __init__(self, world: "World", name: str, box: str, root: Path) -> None:
        self.world = world
        self.name = name
        self.box = box
        self.up = True
        self.cursed = False
        self.stranger = False
        self.occupied: Kind | None = None
        self.duty = Duty(drained="", releases=0)
        self.cut_until = self.frozen_until = world.now
        self.actors: list[Actor] = []
        self.runners: list[Runner] = []
        self.lock: Actor | None = None
        self.named: Actor | None = None
        self._root = root / name
        self._disks = 0
        self.new_disk()

    @property
    def has_space(self) -> bool:
        return self.disk not in self.world.full_disks

    @property
    def is_cut(self) -> bool:
        return self.world.now < self.cut_until

    def new_disk(self) -> None:
        self._disks += 1
        self.bundles: set[str] = set()
        self.disk = self._root / str(self._disks)
        self.disk.mkdir(parents=True)

    def actor(self) -> "Actor":
        """Found by its name, or made."""
        if self.named is None:
            self.named = Actor(self)
            self.actors.append(self.named)
        return self.named

    def is_held(self) -> bool:
        """The lock belongs to whoever took it and to the runners that inherited it."""
        holder = self.lock
        return holder is not None and (holder.lives or any(r.lives and r.actor is holder for r in self.runners))

    def end_orphans(self) -> None:
        """What a dead actor's runner left behind has the lock, and nobody who lives does."""
        for runner in self.runners:
            if not runner.actor.lives:
                runner.end()

    def fork(self, actor: "Actor", visit: int, process: int, ledger: str) -> Runner:
        runner = Runner(actor, visit)
        self.runners = [r for r in self.runners if r.lives] + [runner]
        self.world.forked(self, runner, process, ledger)
        return runner

    def kill(self, linger_s: float = 0.0) -> None:
        """Every actor dies, and its runner with it or a little later. Ray knows at once."""
        self.named = None
        actors, self.actors = self.actors, []
        for actor in actors:
            actor.die(linger_s)

    def kill_by_handle(self, actor: "Actor") -> None:
        """`ray.kill`: the name is free at once; a process that lives on behind a cut link goes a moment later."""
        if self.named is actor:
            self.named = None
        if actor in self.actors:
            self.actors.remove(actor)
            self.world.later(self.world.random.uniform(0.0, 3.0), lambda: actor.die(0.0))

    def lose_power(self) -> None:
        """The node is gone, and Ray goes on knowing its actor by name until somebody kills it."""
        named = self.named
        self.kill()
        self.named = named
        self.up = False

    def drain(self, why: str) -> None:
        """What a person asks of the host, for every ledger; "" puts it back. It outlives the actor."""
        self.duty = Duty(drained=why, releases=self.duty.releases + (not why))
        for actor in self.actors:
            actor.core.set_duty(self.duty)

    def calm(self) -> None:
        """Whatever was wrong with it is over; what is frozen thaws in its time."""
        self.up = True
        self.cursed = False
        self.occupied = None
        self.cut_until = self.world.now
        self.drain("")


class Lock:
    """`workers.host.lock.HostLock`, as the kernel keeps it."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor

    def acquire(self, controller: Controller, since: str) -> HostHeld | None:
        machine = self._actor.machine
        machine.end_orphans()
        if machine.is_held():
            return held_by(controller, since)
        machine.lock = self._actor
        return None

    def release(self) -> None:
        self._actor.machine.lock = None


class Actor:
    """`workers.host.service` without an event loop. What it had not done when it dies is never done."""

    def __init__(self, machine: Machine) -> None:
        self.world = machine.world
        self.machine = machine
        self.lives = True
        self.sitting = f"{machine.name}-{self.world.number()}"
        self.on_death: list[Callable[[], None]] = []
        self.protocol = PROTOCOL - 1 if machine.stranger else PROTOCOL
        self._needed_until = self.world.now + (NEEDED_S if machine.stranger else 0.0)
        machine.stranger = False
        self.spool: Spool | None = None
        self._jobs: deque[tuple[Callable[[], object], Callable[[], None] | None]] = deque()
        self._calls: deque[tuple[Call, Respond]] = deque()
        self._waiting: list[tuple[Call, Respond, float]] = []
        self._looked = float("-inf")
        self.core = SyncHost(machine.name, ORPHAN_S, Lock(self), self)
        self.core.set_duty(machine.duty)
        self._tick()

    @property
    def is_needed(self) -> bool:
        """By somebody who speaks another version, which is this actor's."""
        return self.world.now < self._needed_until

    def die(self, linger_s: float) -> None:
        self.lives = False
        for runner in self.machine.runners:
            if runner.actor is self:
                self.world.later(linger_s, runner.end) if linger_s else runner.end()
        if self.spool is not None:
            self.spool.close()
            if self._jobs and self.world.random.random() < 0.5:
                self.world.tear(self.spool)
        for tell in self.on_death:
            tell()

    def awake(self, do: Callable[[], None]) -> None:
        """Do it unless dead; a frozen machine does it when it thaws."""
        if self.lives and self.world.now < self.machine.frozen_until:
            self.world.later(self.machine.frozen_until - self.world.now, partial(self.awake, do))
        elif self.lives:
            do()

    def _later(self, delay_s: float, do: Callable[[], None]) -> None:
        self.world.later(delay_s, partial(self.awake, do))

    def _tick(self) -> None:
        self.core.tick(self.world.now)
        if self.core.is_idle and self.world.now - self._looked >= PROBE_EVERY_S:
            self._looked = self.world.now
            self.core.probed(self.probe())
        self._later(TICK_S, self._tick)

    def _go_on(self, process: Iterator[Wait]) -> None:
        """Runs a simulated process to its next wait."""
        match next(process, None):
            case None:
                self._poll()
            case float() as delay_s:
                self._later(delay_s, partial(self._go_on, process))
            case change:
                self.on_disk(change, then=partial(self._go_on, process))

    # -- calls --------------------------------------------------------------------------------------------------------

    def receive(self, text: str, respond: Respond) -> None:
        call = Call.model_validate_json(text)
        if self.protocol == PROTOCOL:
            self._calls.append((call, respond))
            if len(self._calls) == 1:
                self._claim()
            return
        respond(
            Observation(
                protocol=self.protocol,
                host=self.machine.name,
                epoch=call.epoch,
                generation=call.generation,
                answer=Answer.OTHER_PROTOCOL,
            )
        )

    def _claim(self) -> None:
        """The next call into the core; the disk's thread opens a spool for it."""
        call, respond = self._calls[0]
        refused: list[Observation | None] = []
        self.on_disk(
            lambda: refused.append(self.core.claim(call, self.world.now)),
            then=lambda: self._obey(call, respond, refused[0]),
        )

    def _obey(self, call: Call, respond: Respond, reply: Observation | None) -> None:
        if reply is None:
            reply = self.core.obey(call, self.world.now)
            self.world.obeyed(self, call, reply)
        self._calls.popleft()
        if self._calls:
            self._claim()
        if reply is None:
            self._waiting.append((call, respond, self.world.now + call.wait_s))
            self._later(call.wait_s, self._poll)
        else:
            self._respond(call, respond, reply)
        self._poll()

    def _poll(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call, respond, deadline in waiting:
            reply = self.core.heartbeat(call) if self.world.now >= deadline else self.core.poll(call)
            if reply is None:
                self._waiting.append((call, respond, deadline))
            else:
                self._respond(call, respond, reply)

    def _respond(self, call: Call, respond: Respond, reply: Observation) -> None:
        if reply.alive:
            self._later(GATHER_S, lambda: respond(self.core.heartbeat(call)))
        else:
            respond(reply)

    # -- workers.sync.Surroundings ------------------------------------------------------------------------------------

    def wall_clock(self) -> str:
        return "now"

    def open_spool(self, ledger_id: str) -> Spool:
        self.world.opening(self.machine)
        self.spool = open_spool(self.machine.disk / ledger_id, self.world.wall_ns, end=lambda _: [])
        return self.spool

    def on_disk(self, change: Callable[[], object], then: Callable[[], None] | None = None) -> None:
        self._jobs.append((change, then))
        if len(self._jobs) == 1:
            self._work_soon()

    def _work_soon(self) -> None:
        self._later(self.world.random.choice((0.001, 0.001, 0.01, 0.2)), self._work)

    def _work(self) -> None:
        change, then = self._jobs[0]
        change()
        self._jobs.popleft()
        if self._jobs:
            self._work_soon()
        if then is not None:
            then()
        self._poll()

    def probe(self) -> Probed:
        """What there is to see: a disk without room, or what has the accelerator."""
        kind = self.machine.occupied if self.machine.has_space else Kind.DISK
        return Probed(clean=kind is None, kind=kind, reason="" if kind is None else f"{kind} here")

    def recover(self) -> None:
        self._go_on(self._climb())

    def _climb(self) -> Iterator[Wait]:
        """The ladder: it frees an accelerator from what is stale, and from nothing else."""
        yield self.world.random.uniform(0.5, 5.0)
        is_stale = self.machine.occupied is Kind.TPU_BUSY
        if is_stale:
            self.machine.occupied = None
        self.core.climbed(Rung(step="holders", good=is_stale))
        yield 0.1
        self.core.recovered(self.probe())

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> Execution:
        execution = Execution(self, visit, spool, order)
        self._go_on(execution.run())
        return execution
