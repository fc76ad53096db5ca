"""What a seed stands for: the pool, the matrices, the network, when controllers die, and which faults come when."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from core.failures import Kind
from core.visit import Target
from infra.pool import HostSpec
from tests.simulation.matrices import Matrix, Nature
from tests.simulation.network import Weather

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

# Faults begin until then. What they did is over then too, and CALM_S later everything must have come to its end: a
# quarantine or two, and an orphan clock.
FAULTS_S = 60.0
CALM_S = 900.0

WEATHERS = (Weather(), Weather(0.02, 0.02, 0.05), Weather(0.1, 0.1, 0.15))


class Scenario(NamedTuple):
    """What a seed may draw from. Narrow ones show what a single rule is for."""

    faults: tuple[str, ...] = ()  # of FAULTS; all when empty
    how_many: tuple[int, ...] = (0, 2, 5, 10, 15)
    hosts: tuple[int, ...] = (1, 2, 2, 3, 3, 5)
    boxes: tuple[int, ...] = (1, 2, 3, 5)
    researchers: tuple[int, ...] = (1, 1, 1, 2)
    weathers: tuple[Weather, ...] = WEATHERS
    gloom: tuple[float, ...] = (0.0, 0.0, 0.1, 0.3)  # how many jobs are bad
    pace: float = 1.0  # how long runs take, in what they usually take
    dying: bool = True  # controllers die at their effects, and these may take long


EVERYTHING = Scenario()


class Schedule:
    """A scenario's draws. What comes later draws from the same source, so that a seed is all there is to know."""

    def __init__(self, scenario: Scenario, draw: random.Random) -> None:
        self._scenario = scenario
        self._draw = draw
        self._salt = draw.random()
        self._gloom = draw.choice(scenario.gloom)
        self.pace = scenario.pace
        self.weather = draw.choice(scenario.weathers)
        boxes = draw.choice(scenario.boxes)
        self.hosts = [
            HostSpec(name=f"h{n}", machine=f"box{n % boxes}", target=Target(), selector={})
            for n in range(draw.choice(scenario.hosts))
        ]

    def nature(self, job: str) -> Nature:
        """The same whenever it is asked."""
        draw = random.Random(f"{self._salt}{job}")
        if draw.random() >= self._gloom:
            return Nature.GOOD
        return draw.choice((Nature.WRONG, Nature.CRASHES, Nature.HANGS))

    def matrices(self) -> list[list[Matrix]]:
        """By researcher."""
        draw = self._draw
        return [
            [
                Matrix(
                    f"exp{who}{which}",
                    draw.randint(1, 3),
                    draw.randint(2, 4),
                    draw.randint(2, 4),
                    draw.choice(((".",), (".",), ("old", "."))),
                )
                for which in range(draw.choice((1, 1, 2)))
            ]
            for who in range(draw.choice(self._scenario.researchers))
        ]

    def mortality(self) -> tuple[int, dict[int, float]]:
        """When a controller dies, in effects, and which of them take how long."""
        draw = self._draw
        if not self._scenario.dying:
            return 0, {}
        dies_at = draw.choice((0, draw.randint(1, 30), draw.randint(1, 300)))
        stalls = {draw.randint(1, 200): draw.choice((0.5, 4.0, 20.0, 60.0)) for _ in range(draw.choice((0, 0, 1, 3)))}
        return dies_at, stalls

    def faults(self, world: "World") -> Iterator[tuple[float, Callable[[], None]]]:
        """When, and what."""
        kinds = self._scenario.faults or tuple(FAULTS)
        for _ in range(self._draw.choice(self._scenario.how_many)):
            yield self._draw.uniform(0.0, FAULTS_S), partial(self._fire, world, self._draw.choice(kinds))

    def _fire(self, world: "World", kind: str) -> None:
        machine = self._draw.choice(list(world.machines.values()))
        world.fired[kind] += 1
        world.trace(f"{kind} ({machine.name})")
        FAULTS[kind](world, machine)


def _away_s(world: "World") -> float:
    """A blink, a restart, longer than it takes to be lost, longer than the orphan clock."""
    return world.random.choice((0.1, 1.0, 5.0, 20.0, 60.0))


def kill_actor(world: "World", machine: "Machine") -> None:
    machine.kill(linger_s=world.random.choice((0.0, 0.0, 8.0)))


def lose_power(world: "World", machine: "Machine") -> None:
    machine.lose_power()
    world.later(_away_s(world), lambda: setattr(machine, "up", True))


def lose_disk(_: "World", machine: "Machine") -> None:
    machine.kill()
    machine.new_disk()


def fill_disk(world: "World", machine: "Machine") -> None:
    disk = machine.disk
    world.full_disks.add(disk)
    world.later(_away_s(world), lambda: world.full_disks.discard(disk))


def forget_a_line(_: "World", machine: "Machine") -> None:
    """What no working host does: a line is gone that nobody has acknowledged."""
    for actor in machine.actors:
        if actor.spool is not None and actor.spool._window:
            del actor.spool._window[0]


def cut_link(world: "World", machine: "Machine") -> None:
    machine.cut_until = max(machine.cut_until, world.now + _away_s(world))


def freeze_host(world: "World", machine: "Machine") -> None:
    machine.frozen_until = max(machine.frozen_until, world.now + _away_s(world))


def occupy(world: "World", machine: "Machine") -> None:
    """By something stale, which only the ladder ends, or by something that goes in its own time."""
    machine.occupied = kind = world.random.choice((Kind.TPU_BUSY, Kind.INIT_HANG, Kind.WRONG_DEVICE))
    if kind is not Kind.TPU_BUSY:
        world.later(_away_s(world), lambda: setattr(machine, "occupied", None))


def curse(world: "World", machine: "Machine") -> None:
    """Whatever runs here dies."""
    machine.cursed = True
    world.later(_away_s(world), lambda: setattr(machine, "cursed", False))


def drain(world: "World", machine: "Machine") -> None:
    machine.drain("somebody works on it")
    world.later(_away_s(world), lambda: machine.drain(""))


def kill_runner(_: "World", machine: "Machine") -> None:
    for runner in machine.runners:
        runner.killed = True


def other_version(_: "World", machine: "Machine") -> None:
    """An actor that speaks another protocol has taken the place of ours."""
    machine.kill()
    machine.stranger = True


def kill_controller(world: "World", _: "Machine") -> None:
    for researcher in world.researchers:
        if researcher.life is not None:
            researcher.life.kill("any moment")


def stop_controller(world: "World", _: "Machine") -> None:
    for researcher in world.researchers:
        if researcher.life is not None:
            researcher.life.stop(world.random.choice((3.0, 20.0, 60.0, 120.0)))


def leave_for_good(world: "World", _: "Machine") -> None:
    """The second researcher goes home and lets nothing go."""
    for researcher in world.researchers[1:]:
        researcher.leave()


def jump_clock(world: "World", _: "Machine") -> None:
    """The time that people read."""
    world.jump_ns += world.random.choice((-3600, 3600, -5)) * 1_000_000_000


def ask(world: "World", _: "Machine") -> None:
    world.random.choice(world.researchers).ask_something(world.random)


FAULTS: dict[str, Callable[["World", "Machine"], None]] = {
    fault.__name__: fault
    for fault in (
        kill_actor,
        lose_power,
        lose_disk,
        fill_disk,
        forget_a_line,
        cut_link,
        freeze_host,
        occupy,
        curse,
        drain,
        kill_runner,
        other_version,
        kill_controller,
        stop_controller,
        leave_for_good,
        jump_clock,
        ask,
    )
}
