"""The functional core: `plan(world, now) -> effects`. Pure: no clock, no ledger, no Ray.

What it keeps: at most one open visit per block, per host and per machine (two timings at once falsify each other); no
visit on a host whose last probe was not clean, or that lacks the code of a commit it runs; a block goes first to the
ready host that has measured its group least and not back to the host it failed on while another is usable; failing
hosts are backed off, waiting work never is.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from core.failures import MEANING, Kind
from core.ledger.snapshot import OpenBlock, OpenVisit, SeriesView, Snapshot
from core.lifecycle import OPEN_VISITS, TRANSITIONS, Arm, HostState, VisitState

# The first jobs of a series failing alike say that the matrix is wrong, not the jobs: three, because two may share a
# value by chance and four would cost a compile more to learn nothing.
SAME_FAILURE = 3

# One job that failed on a host and passed elsewhere is bad luck; two are the host.
BAD_JOBS = 2

# A host with one of these may still take work, or take it again, without anyone's help.
USABLE = frozenset({HostState.READY, HostState.BUSY, HostState.SUSPECT})


class Unplaced(NamedTuple):
    """Code that could not be put on a host: why, and when to try again."""

    why: str
    not_before: float


class HostView(NamedTuple):
    """A host as its controller sees it now. Times are the controller's own monotonic seconds."""

    name: str
    machine: str
    state: HostState
    reason: str = ""
    alive: frozenset[int] = frozenset()  # visits it says it executes
    is_done: bool = False  # it executes none, and has told all that it has to tell
    loss: Kind | None = None  # what became of it, after enough fresh misses to give up on its visit
    set_aside: str = ""  # why it should be quarantined
    not_before: float = 0.0  # backed off until then
    codes: frozenset[str] = frozenset()  # commits whose code was put there
    placing: bool = False  # code is on its way there
    unplaced: Mapping[str, Unplaced] = {}  # by commit

    def is_usable_for(self, blocks: Sequence[OpenBlock]) -> bool:
        """Whether it may take one of these, now or soon, without anyone's help."""
        wanted = [set(block.codes.values()) for block in blocks] or [set()]
        return self.state in USABLE and any(codes.isdisjoint(self.unplaced) for codes in wanted)


class World(NamedTuple):
    """All that is known when a decision is taken. `scope`: the experiments to drive; None for all."""

    ledger: Snapshot
    hosts: Mapping[str, HostView]
    scope: frozenset[str] | None = None
    stopping: bool = False
    exclusive: bool = True  # one timing visit per machine at a time
    unusable_since: float | None = None  # since when no host was usable
    no_host_s: float = 600.0  # waiting longer than this for any usable host helps nobody


class Assign(NamedTuple):
    block: OpenBlock
    host: str
    order: tuple[int, ...]


class Place(NamedTuple):
    """The code of these commits is to be put on a host: a block it may take runs it."""

    host: str
    codes: tuple[str, ...]


class Close(NamedTuple):
    block: int
    why: str


class Lose(NamedTuple):
    visit: int
    host: str
    kind: Kind
    why: str


class TakeBack(NamedTuple):
    visit: int
    host: str


class Pause(NamedTuple):
    series: int
    experiment: str
    why: str


class Quarantine(NamedTuple):
    host: str
    why: str


class Finish(NamedTuple):
    """Nothing is left to do here, or nothing can be done: what stands in the way, in a sentence."""

    blocked: str = ""
    paused: str = ""


Effect = Assign | Place | Close | Lose | TakeBack | Pause | Quarantine | Finish


def plan(world: World, now: float) -> list[Effect]:
    """What to do next, in order. Calling it again after the effects have been applied yields what is left."""
    effects: list[Effect] = [*_visits(world), *_quarantines(world), *_pauses(world)]
    paused = {e.experiment for e in effects if isinstance(e, Pause)}
    set_aside = {e.host for e in effects if isinstance(e, Quarantine)}
    blocks = [b for b in world.ledger.blocks if _in_scope(world, b.experiment)]
    taken_back = {e.visit for e in effects if isinstance(e, TakeBack)}
    open_visits = [v for v in world.ledger.visits if v.state in OPEN_VISITS or v.id in taken_back]
    visited = {v.block for v in open_visits}
    waiting: list[OpenBlock] = []
    for block in blocks:
        if block.id in visited:
            continue
        if not runnable(block.arms, world.ledger.series[block.series]):
            effects.append(Close(block.id, "dropped: what is left of it failed for good"))
        else:
            waiting.append(block)
    held_up = [b for b in waiting if b.experiment in paused or world.ledger.series[b.series].paused]
    ready = [b for b in waiting if b not in held_up]
    if not world.stopping:
        effects += _assign(world, ready, open_visits, set_aside, now)
    running = [v for v in open_visits if _in_scope(world, v.experiment)]
    if not effects and not running:
        if world.stopping or not waiting:
            effects.append(Finish())
        elif not ready:
            effects.append(Finish(paused=_paused_sentence(world, held_up)))
        elif (
            world.unusable_since is not None
            and now - world.unusable_since >= world.no_host_s
            and not any(host.placing for host in world.hosts.values())
        ):
            effects.append(Finish(blocked=_no_host_sentence(world)))
    return effects


def runnable(arms: Sequence[Arm], series: SeriesView) -> tuple[Arm, ...]:
    """The arms of a block that are still worth a visit, each with its reference.

    An arm that failed for good is not. An arm whose reference failed for good has nothing to be compared with: one good
    run of it is enough. A reference that nobody is left to compare with is not measured for its own sake.
    """
    alive = [a for a in arms if a.job not in series.failed]
    references = {a.slot for a in alive if a.reference == a.slot}
    compared = {a.reference for a in arms if a.reference != a.slot}
    chosen: set[int] = set()
    for arm in alive:
        if arm.reference == arm.slot:
            if arm.slot not in compared:
                chosen.add(arm.slot)
        elif arm.reference in references:
            chosen |= {arm.slot, arm.reference}
        elif arm.job not in series.measured:
            chosen.add(arm.slot)
    return tuple(a for a in alive if a.slot in chosen)


def order(arms: Sequence[Arm], ordinal: int) -> tuple[int, ...]:
    """The slots in the order of execution: reversed in odd blocks, and rotated by one every two, so that a drift inside
    a visit cancels exactly over each pair of blocks and no arm is always first."""
    slots = [a.slot for a in arms]
    start = ordinal // 2 % len(slots)
    rotated = slots[start:] + slots[:start]
    return tuple(reversed(rotated)) if ordinal % 2 else tuple(rotated)


def _in_scope(world: World, experiment: str) -> bool:
    return world.scope is None or experiment in world.scope


def _visits(world: World) -> Iterator[Effect]:
    """Give up visits of lost hosts; take back a lost one that proves alive while nobody else has its block."""
    measured_elsewhere = {v.block for v in world.ledger.visits if v.state in OPEN_VISITS}
    busy_hosts = {v.host for v in world.ledger.visits if v.state in OPEN_VISITS}
    for visit in world.ledger.visits:
        host = world.hosts.get(visit.host)
        if visit.state in OPEN_VISITS:
            if host is None:
                yield Lose(visit.id, visit.host, Kind.HOST_LOST, f"{visit.host} is not in this pool")
            elif host.loss is not None:
                yield Lose(visit.id, visit.host, host.loss, f"{visit.host}: {host.reason}")
            elif host.state is HostState.HELD:
                # a host changes its owner only when nothing runs there; waiting for it, two ledgers would wait for ever
                yield Lose(visit.id, visit.host, Kind.HOST_LOST, f"{visit.host}: {host.reason}")
            elif host.state is HostState.DRAINED and visit.id not in host.alive:
                yield Lose(visit.id, visit.host, Kind.HOST_LOST, f"{visit.host} starts nothing: {host.reason}")
            elif visit.state is VisitState.RUNNING and host.is_done:
                # its last line was lost: nothing will ever tell how it ended
                yield Lose(visit.id, visit.host, Kind.WORKER_LOST, f"{visit.host} has told all, and not its end")
        elif (
            visit.state is VisitState.LOST
            and host is not None
            and host.state is HostState.BUSY
            and visit.id in host.alive
            and visit.block not in measured_elsewhere
            and visit.host not in busy_hosts
        ):
            measured_elsewhere.add(visit.block)
            busy_hosts.add(visit.host)
            yield TakeBack(visit.id, visit.host)


def _quarantines(world: World) -> Iterator[Quarantine]:
    for host in world.hosts.values():
        if HostState.QUARANTINED not in TRANSITIONS[host.state]:
            continue
        jobs = world.ledger.blamed.get(host.name, frozenset())
        if host.set_aside:
            yield Quarantine(host.name, host.set_aside)
        elif len(jobs) >= BAD_JOBS:
            yield Quarantine(host.name, f"{len(jobs)} jobs failed there that passed elsewhere")


def _pauses(world: World) -> Iterator[Pause]:
    """A cause common to the first jobs is the matrix' own. Asked once: whoever lets it go on knows."""
    for series in world.ledger.series.values():
        first = series.verdicts[:SAME_FAILURE]
        kind = first[0] if len(first) == SAME_FAILURE and len(set(first)) == 1 else None
        if kind is None or series.alarmed or series.paused or not _in_scope(world, series.experiment):
            continue
        why = f"its first {SAME_FAILURE} jobs all failed with {kind}: {MEANING[kind].advice}"
        yield Pause(series.id, series.experiment, why)


def _assign(
    world: World, ready: list[OpenBlock], open_visits: list[OpenVisit], set_aside: set[str], now: float
) -> Iterator[Assign | Place]:
    occupied = {v.host for v in open_visits} | set_aside
    machines = Counter(world.hosts[v.host].machine for v in open_visits if v.host in world.hosts)
    # a visit given up as lost may still be running there: its machine is not idle while the host says so, and one that
    # says nothing any more must not hold up the others for ever
    machines.update(h.machine for h in world.hosts.values() if h.alive and h.loss is None and h.name not in occupied)
    # nothing is timed beside what unpacks code or installs its packages
    machines.update(h.machine for h in world.hosts.values() if h.placing)
    free = {
        h.name: h
        for h in world.hosts.values()
        if h.state is HostState.READY
        and now >= h.not_before
        and h.name not in occupied
        and not h.alive
        and h.loss is None
        and not h.placing
    }
    for block in ready:
        series = world.ledger.series[block.series]
        arms = runnable(block.arms, series)
        avoided = {block.avoid_host}.union(*(series.ambiguous.get(a.job, ()) for a in arms))
        usable = {h.name for h in world.hosts.values() if h.is_usable_for([block])}
        if usable <= avoided:
            avoided = set()
        wanted = {block.codes[a.job] for a in arms if a.job in block.codes}
        candidates = [
            h
            for h in free.values()
            if h.name not in avoided
            and not (world.exclusive and machines[h.machine])
            and all(now >= h.unplaced[code].not_before for code in wanted if code in h.unplaced)
        ]
        if not candidates:
            continue
        host = min(candidates, key=lambda h: _rank(h, block, wanted))
        if wanted <= host.codes:
            yield Assign(block, host.name, order(arms, block.ordinal))
        else:
            yield Place(host.name, tuple(sorted(wanted - host.codes)))
        del free[host.name]
        machines[host.machine] += 1


def _rank(host: HostView, block: OpenBlock, wanted: Set[str]) -> tuple[bool, int, str]:
    """The smallest is taken: where no code failed to arrive before, and the group was measured least."""
    return not wanted.isdisjoint(host.unplaced), block.measured_by.get(host.name, 0), host.name


def _paused_sentence(world: World, held_up: list[OpenBlock]) -> str:
    reasons = {b.experiment: world.ledger.series[b.series].paused or "paused" for b in held_up}
    return "; ".join(f"{e} is paused ({why}): `hillclimb resume {e}` goes on" for e, why in sorted(reasons.items()))


def _no_host_sentence(world: World) -> str:
    hosts = "; ".join(
        f"{h.name} is {h.state}{f' ({why})' if (why := trouble(h)) else ''}" for h in world.hosts.values()
    )
    waited = f"{world.no_host_s / 60:.0f} minutes" if world.no_host_s >= 90 else f"{world.no_host_s:g} s"
    return f"no usable host for {waited}: {hosts or 'the pool has no hosts'}; `hillclimb pool check` looks at them"


def trouble(host: HostView) -> str:
    """What is the matter with a host, and which code it lacks; "" when nothing."""
    lacks = (f"the code of commit {code[:12]} is not there: {it.why}" for code, it in sorted(host.unplaced.items()))
    return "; ".join(filter(None, (host.reason, *lacks)))
