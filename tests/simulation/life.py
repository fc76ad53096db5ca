"""One controller's life: the ledger it holds, the real `Drive` on a loop of its own, and the places it can die at.

Every effect passes `boundary` before and after it: a change of the ledger, a call sent, an answer taken, an actor found
or dropped. There a controller is killed, or its ledger takes its time while the world goes on.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from core.events import Entry
from core.ledger.ingest import Ingested
from core.ledger.writer import Ledger
from core.protocol import Answer, Observation
from infra.pool import HostSpec, Policy
from orchestrator.controller import Drive
from orchestrator.plan import Finish
from orchestrator.progress import Progress
from tests.simulation.loop import VirtualLoop
from tests.simulation.matrices import bundles
from tests.simulation.network import Wire

if TYPE_CHECKING:
    from tests.simulation.invariants import Audit
    from tests.simulation.researcher import Researcher
    from tests.simulation.world import World

CODE = "code"
# Five minutes without a usable host are long enough here.
POLICY = Policy(no_host_s=300.0)

# Every method of the ledger that changes it and that a controller uses.
EFFECTS = (
    "alarm",
    "answer",
    "cancel",
    "close_blocks",
    "enqueue",
    "ingest",
    "lease",
    "lose",
    "new_spool",
    "note",
    "pause",
    "resume",
    "retry",
    "see_bundle",
    "see_condition",
    "see_host",
    "take_back",
)


class Killed(BaseException):
    """The controller is dead: nothing of it has an effect any more."""


class WatchedLedger(Ledger):
    """The real ledger, looked at before what is irrevocable."""

    life: "Life"

    def lease(self, block: int, host: str, order: Sequence[int], bundle: str = "") -> int:
        with self.life.world.judged():
            self.life.audit.leasing(self.life, block, host, order)
        return super().lease(block, host, order, bundle)

    def ingest(self, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        self.life.world.ingesting(spool_id, entries)
        done = super().ingest(spool_id, host, entries)
        self.life.world.stored[spool_id] = done.acked_seq
        return done


def with_boundaries(plain: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A method of the ledger between two boundaries, with the ledger looked at behind it."""

    def effect(self: WatchedLedger, *args: Any, **kwargs: Any) -> Any:
        self.life.boundary(f"before {name}")
        result = plain(self, *args, **kwargs)
        with self.life.world.judged():
            self.life.audit.look()
        self.life.boundary(f"after {name}")
        return result

    return effect


class MortalLedger(WatchedLedger):
    """Whose controller can die before and after every change."""


for _name in EFFECTS:
    setattr(MortalLedger, _name, with_boundaries(getattr(WatchedLedger, _name), _name))


class Said(Progress):
    """What a person would read, for the trace."""

    def __init__(self, trace: Callable[[str], None]) -> None:
        self._trace = trace

    def say(self, line: str) -> None:
        self._trace(line)

    def visit_ended(self, line: str, _: float) -> None:
        self.say(line)

    def left(self, visits: int, running: int, machines: int, doing: str) -> None:
        pass


class Life:
    """`dies_at`: the effect it is killed at, counted from 1. `stalls`: effect -> how long it takes, in seconds."""

    def __init__(
        self,
        world: "World",
        researcher: "Researcher",
        hosts: Sequence[HostSpec],
        dies_at: int,
        stalls: dict[int, float],
    ) -> None:
        self.world = world
        self.hosts = hosts
        self.audit: Audit = researcher.audit
        self.loop = VirtualLoop(lambda: world.now)
        self.answers: dict[str, tuple[float, Observation]] = {}
        self.finish: Finish | None = None
        self.dead = False
        self.busy = False
        self.woke_at = float("-inf")
        self._dies_at = dies_at
        self._stalls = stalls
        self._effects = 0
        self._stopped_until = 0.0
        ledger = MortalLedger.open(researcher.path, world.wall_ns)
        assert isinstance(ledger, MortalLedger)
        ledger.life = self
        self._ledger = ledger
        self._task = self.loop.create_task(self._main())

    async def _main(self) -> None:
        clock = lambda: self.world.now  # noqa: E731
        wire = Wire(self.world, self)
        said = Said(self.world.trace)
        self.drive = Drive(self._ledger, self.hosts, wire, said, CODE, None, POLICY, bundles, clock)
        finish = await self.drive.run()
        await self.drive.release()
        self.finish = finish

    # -- how it goes on -----------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        return self.dead or self._task.done()

    def due(self) -> float:
        return float("inf") if self.ended or self.busy else max(self.loop.due(), self._stopped_until)

    def boundary(self, where: str) -> None:
        """An effect begins or has ended. Raises Killed."""
        if self.dead:
            raise Killed
        self._effects += 1
        self.world.steps += 1
        if self._effects == self._dies_at:
            self.world.fired["killed at an effect"] += 1
            self.kill(f"effect {self._effects}: {where}")
            raise Killed
        if stall_s := self._stalls.pop(self._effects, 0.0):
            self.world.fired["slow effect"] += 1
            self.world.trace(f"{stall_s:.1f} s {where}")
            self.world.pass_time(stall_s, self)
            self.woke_at = max(self.woke_at, self.world.now)
            if self.dead:
                raise Killed

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self._stopped_until = self.woke_at = max(self._stopped_until, self.world.now + seconds)

    def kill(self, where: str) -> None:
        self.world.trace(f"controller killed at {where}")
        self.dead = True

    def end(self) -> None:
        """Whatever way it ended: its lock is free and nothing of it is left. Raises what nobody expected."""
        self.loop.bury()
        if self.dead:
            self._ledger._cleanup.close()  # what the kernel does; `close` would write
        else:
            self._ledger.close()
            self._task.result()

    # -- what it knows of hosts ---------------------------------------------------------------------------------------

    def is_awaiting(self, answer: "asyncio.Future[Observation]") -> bool:
        return not (answer.done() or self.loop.is_closed())

    def heard(self, host: str, reply: Observation) -> None:
        if reply.answer is not Answer.STALE:
            self.answers[host] = self.world.now, reply

    def forget(self, host: str) -> None:
        """Its actor is gone: what it said is of another."""
        self.answers.pop(host, None)
