"""What lies between controllers and actors: calls and replies are lost, doubled, delayed and reordered.

`Wire` is one controller's `orchestrator.transport.Transport`; it fails in the ways Ray does. What was sent is on its
way whatever becomes of who sent it: a dead controller's calls still arrive.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from core.failures import Kind
from core.protocol import Observation
from infra.bundle import Bundle
from orchestrator.transport import HostDown, HostSilent, Loss
from tests.simulation.invariants import hold
from tests.simulation.machine import Actor, Machine

if TYPE_CHECKING:
    from tests.simulation.life import Life
    from tests.simulation.world import World

# An actor's process starts in about this time.
START_S = 1.2
# What it takes at worst to put code on a host, which still has its packages to install.
PLACE_S = 30.0
# A message that is late for no reason anyone sees.
LATE_S = 12.0


class Weather(NamedTuple):
    """How many of all messages are lost, come twice, are late."""

    lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0


class Network:
    """Carries messages as well as its weather lets it."""

    def __init__(self, world: "World", weather: Weather) -> None:
        self._world = world
        self.weather = weather

    def carry(self, machine: Machine, deliver: Callable[[], None]) -> None:
        """Delivers now, later, twice or never. What meets a cut link is lost, or arrives when it heals."""
        world, draw = self._world, self._world.random
        if machine.is_cut:
            if draw.random() < 0.5:
                world.later(machine.cut_until - world.now + draw.uniform(0.1, 2.0), deliver)
            return
        if draw.random() < self.weather.lost:
            return
        for _ in range(2 if draw.random() < self.weather.twice else 1):
            is_late = draw.random() < self.weather.late
            world.later(draw.uniform(0.1, LATE_S) if is_late else draw.uniform(0.0005, 0.02), deliver)


class Wire:
    """`orchestrator.fleet.Fleet`: actor handles by host."""

    def __init__(self, world: "World", life: "Life") -> None:
        self._world = world
        self._life = life
        self._handles: dict[str, Actor] = {}

    async def ensure(self, host: str) -> None:
        """Pends for ever while no node has the host's label, as Ray does."""
        if host in self._handles:
            return
        machine = self._world.machines[host]
        self._life.boundary(f"ensure {host}")
        while not machine.up or machine.is_cut:
            await asyncio.sleep(0.5)
        self._handles[host] = actor = machine.actor()
        await asyncio.sleep(self._world.random.uniform(0.01, START_S))
        if not actor.lives:
            raise HostDown("the actor died while it started")

    async def sync(self, host: str, call: str) -> str:
        self._life.boundary(f"send to {host}")
        actor = self._handles[host]
        machine = actor.machine
        if not machine.up and self._world.random.random() < 0.5:
            raise HostSilent("the actor is unavailable")
        answer: asyncio.Future[Observation] = self._life.loop.create_future()

        def comes_back(put: Callable[[], None]) -> None:
            is_awaited = self._life.is_awaiting
            self._world.network.carry(machine, lambda: put() if is_awaited(answer) else None)

        def died() -> None:
            comes_back(partial(answer.set_exception, HostDown("the actor died")))

        def arrives() -> None:
            if actor.lives:
                actor.on_death.append(died)
                actor.awake(partial(actor.receive, call, lambda reply: comes_back(partial(answer.set_result, reply))))
            else:
                died()

        self._world.network.carry(machine, arrives)
        reply = await answer
        self._life.boundary(f"answer of {host}")
        self._life.heard(host, reply)
        return reply.model_dump_json()

    async def replace(self, host: str) -> bool:
        """An actor of another version knows whether somebody needs it, and answers like any call."""
        self._life.boundary(f"replace {host}")
        actor = self._handles[host]
        await asyncio.sleep(self._world.random.uniform(0.001, 0.02))
        if not actor.machine.up or actor.machine.is_cut:
            raise HostSilent("the actor is unavailable")
        if actor.lives and actor.is_needed:
            return False
        self.discard(host)
        return True

    def reallocate(self, _: str) -> None:
        """These machines are all there are."""

    async def loss(self, host: str) -> Loss | None:
        """Ray knows of a raylet that is gone, and of nothing behind a cut link."""
        await asyncio.sleep(0.01)
        return None if self._world.machines[host].up else Loss(Kind.RAYLET_LOST, "its Ray node is dead")

    async def place(self, host: str, bundle: Bundle) -> None:
        """Half a minute at worst, all of it lost when the machine cannot be reached at the end."""
        self._life.boundary(f"place code on {host}")
        machine = self._world.machines[host]
        disk = machine.disk
        if bundle.id not in machine.bundles:
            await asyncio.sleep(self._world.random.choice((0.1, 3.0, PLACE_S)))
        if not machine.up or machine.is_cut or self._world.random.random() < self._world.network.weather.lost:
            raise HostSilent("the code does not get through")
        if machine.disk is disk:
            machine.bundles.add(bundle.id)
            self._world.tally["code placed"] += 1

    def discard(self, host: str) -> None:
        self._life.boundary(f"discard {host}")
        self._life.forget(host)
        if actor := self._handles.pop(host, None):
            hold(not (actor.lives and actor.is_needed), 3, f"the actor on {host} is killed in the midst of its work")
            actor.machine.kill_by_handle(actor)
