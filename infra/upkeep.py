"""Looking after an ssh pool without a controller: what is on its machines, and taking Ray away from them.

Needs no code of ours there and sends none. What somebody may want back stays: bundles, environments, spools.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import NamedTuple

from infra.agent import Facts, Running
from infra.agreement import DOWN
from infra.cluster import GRACE_S, HEAD, NOT_UP, RAYLET, PoolInUse, is_whole, user_in
from infra.commands import run_command
from infra.parallel import side_by_side
from infra.pool import PoolError, SshPool
from infra.station import Station, Survey

# What stays on a machine: folders of the pool's root.
KEPT = ("bundles", "envs", "hosts")

# Deleting a machine at a cloud's API takes a minute or two.
RELEASE_S = 900.0


class State(StrEnum):
    """Of a machine, for a person."""

    UP = "up"
    IN_USE = "in use"
    DOWN = "down"
    STRAY = "stray"  # its raylet belongs to another head than the pool's
    SILENT = "silent"


class Seen(NamedTuple):
    """What a machine said. `head` and `raylet` are None where none works."""

    facts: Facts
    survey: Survey
    head: Running | None
    raylet: Running | None


class Standing(NamedTuple):
    """How a machine of the pool is. `seen` is None when it did not answer."""

    name: str
    state: State
    reason: str
    seen: Seen | None


class Ending(NamedTuple):
    """What became of a machine. `kept`: bytes that stay there, by folder of `root`. `trouble`: what is left to do."""

    name: str
    ended: tuple[str, ...]
    root: str
    kept: Mapping[str, int]
    released: bool
    trouble: str


def status(pool: SshPool) -> list[Standing]:
    """How every machine is, its head's among them. Changes nothing; one that does not answer is SILENT."""
    with _stations(pool) as stations:
        return _standings(pool, stations)


def down(pool: SshPool, force: bool, say: Callable[[str], None]) -> list[Ending]:
    """Ends Ray and the actors on every machine, then gives the hosts back by the pool's `release`, if it has one.

    Raises PoolInUse, with nothing changed, when somebody uses a host, unless `force`.
    """
    with _stations(pool) as stations:
        standings = _standings(pool, stations)
        used = [f"{found.name}: {found.reason}" for found in standings if found.state is State.IN_USE]
        if used and not force:
            raise PoolInUse(f"{'; '.join(used)}: wait for the end, or end it with --force")
        endings = side_by_side({found.name: partial(_end, stations[found.name], found) for found in standings})
        works = {}
        for found in standings:
            ending = endings[found.name]
            if isinstance(ending, PoolError):
                ending = Ending(found.name, (), "", {}, False, str(ending))
            works[found.name] = partial(_release, pool, ending, force, say)
        released = side_by_side(works)
    return [ending for ending in released.values() if isinstance(ending, Ending)]


@contextmanager
def _stations(pool: SshPool) -> Iterator[dict[str, Station]]:
    """Of all machines by name, the head's last where it is no host."""
    head = pool.head_machine()
    stations = {name: Station(machine, pool.root) for name, machine in (pool.machines() | {head.name: head}).items()}
    try:
        yield stations
    finally:
        for station in stations.values():
            station.close()


def _standings(pool: SshPool, stations: Mapping[str, Station]) -> list[Standing]:
    found = side_by_side({name: partial(_see, station) for name, station in stations.items()})
    there = found[pool.head_machine().name]
    head = there if isinstance(there, PoolError) else there.head
    return [standing(name, seen, head, name in pool.hosts) for name, seen in found.items()]


def _see(station: Station) -> Seen:
    survey = station.survey(*KEPT)
    head, raylet = (station.agent.process(name) for name in (HEAD, RAYLET))
    return Seen(
        station.look(),
        survey,
        head if head and is_whole(HEAD, head, survey) else None,
        raylet if raylet and is_whole(RAYLET, raylet, survey) else None,
    )


def standing(name: str, seen: Seen | PoolError, head: Running | PoolError | None, is_host: bool) -> Standing:
    """How a machine is that said this, in a pool with this head."""
    if isinstance(seen, PoolError):
        return Standing(name, State.SILENT, str(seen).removeprefix(f"{name}: "), None)
    raylet = seen.raylet
    if not is_host:
        return Standing(name, State.UP if seen.head else State.DOWN, "" if seen.head else NOT_UP, seen)
    if seen.survey.holder is not None:
        return Standing(name, State.IN_USE, user_in(seen.survey.holder), seen)
    if raylet is None:
        return Standing(name, State.DOWN, NOT_UP, seen)
    if isinstance(head, PoolError):
        # a raylet that has lost its head ends itself in time
        return Standing(name, State.UP, f"whether it still has its head is not known: {head}", seen)
    if head is None or raylet.info["head"] != head.info["word"]:
        return Standing(name, State.STRAY, "its Ray has lost its head: `hillclimb pool up` starts it anew", seen)
    return Standing(name, State.UP, "", seen)


def _end(station: Station, standing: Standing) -> Ending:
    """Raises PoolError."""
    if standing.seen is None:
        return Ending(station.name, (), "", {}, False, standing.reason)
    # first, or a controller that is still there would start again what is ended here
    station.agent.put(DOWN, b"")
    ended = tuple(name for name in (RAYLET, HEAD) if station.agent.stop_process(name, GRACE_S))
    station.agent.run(["rm", "-rf", station.scratch()])
    return Ending(station.name, ended, standing.seen.facts.root, standing.seen.survey.folders, False, "")


def _release(pool: SshPool, ending: Ending, force: bool, say: Callable[[str], None]) -> Ending:
    """What nobody could look at may be in use: it is given back only by force."""
    if ending.name not in pool.hosts or not pool.release or (ending.trouble and not force):
        return ending
    say(f"{ending.name}: is given back")
    said = asyncio.run(run_command(pool.arguments(pool.release, ending.name), RELEASE_S))
    trouble = f"{said}: give it back by hand" if said else ""
    return ending._replace(released=not said, trouble=trouble)
