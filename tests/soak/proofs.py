"""What must hold after a soak, each as a function that returns the sentences that say where it does not.

Pure: over the ledger's rows, what `hillclimb status` says, and the faults that were done.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from core.failures import Blame, Kind, blame
from tests.soak.faults import Fault, Fired
from tests.soak.record import Record, Run, Visit

KILLED = "signal 9 (SIGKILL)"

# How a visit may fail for what was done to its host. A runner that stands still for less than its deadline is late; a
# visit that was given up as lost may end after all: it is stopped when its block is measured elsewhere, or superseded.
_GONE = frozenset({Kind.WORKER_LOST, Kind.RAYLET_LOST, Kind.HOST_LOST, Kind.CANCELLED, Kind.SUPERSEDED})
CAUSES: Mapping[Fault, frozenset[Kind]] = {
    Fault.RUNNER_KILL: frozenset({Kind.KILLED}),
    Fault.RUNNER_STOP: frozenset(),
    Fault.ACTOR_KILL: _GONE,
    Fault.ACTOR_STOP: _GONE,
    Fault.RAYLET_KILL: _GONE,
    Fault.RAYLET_TERM: _GONE,
    Fault.RAYLET_STOP: _GONE,
    Fault.CONTROLLER_KILL: frozenset(),
    Fault.CONTROLLER_TERM: frozenset(),
    Fault.CONTROLLER_STOP: frozenset(),
    Fault.DISK_FULL: frozenset({Kind.DISK}),
}

# What a fault leaves behind it: a head calls a killed raylet dead after 15 s, and a visit is given up as lost 15 s
# after its host's last word.
AFTERMATH_NS = 40 * 10**9


def nothing_lost(
    record: Record, cells: Mapping[str, Sequence[Mapping[str, Any]]], failing: Mapping[str, int]
) -> list[str]:
    """Every cell has the last word it should have, every block its accepted visit or its reason.

    `cells`: what `status` says, by experiment; `failing`: how many cells of each must have failed.
    """
    wrong = []
    for experiment, rows in cells.items():
        states = Counter("failed" if _has_failed(row) else row["state"] for row in rows)
        wanted = Counter({"failed": failing[experiment], "done": len(rows) - failing[experiment]})
        if states != +wanted:
            wrong.append(f"{experiment} should end with {_counts(+wanted)}, and has {_counts(states)}")
        wrong += [
            f"{experiment}: {row['cell']} is {row['state']} without a reason"
            for row in rows
            if _has_failed(row) and not row["reason"]
        ]
    for block in record.blocks:
        if block.accepted is None and block.closed is None:
            wrong.append(f"block {block.id} of {block.experiment} is open")
    return wrong


def nothing_twice(record: Record) -> list[str]:
    """A visit is started once, a slot of it is run once, a visit is accepted by its own block and by no other."""
    of = {visit.id: visit.block for visit in record.visits}
    accepted = [(block.accepted, block.id) for block in record.blocks if block.accepted is not None]
    return [
        *(f"visit {v} slot {s} has {n} runs" for (v, s), n in _repeated((r.visit, r.slot) for r in record.runs)),
        *(f"visit {v} was started {n} times" for v, n in _repeated(record.begun)),
        *(f"visit {v} is accepted by {n} blocks" for v, n in _repeated(v for v, _ in accepted)),
        *(f"block {b} accepts visit {v}, which is one of block {of[v]}" for v, b in accepted if of[v] != b),
    ]


def samples_complete(record: Record) -> list[str]:
    """A good run of an accepted visit has all its samples, and every run of one is closed."""
    iters = {block.accepted: block.iters for block in record.blocks if block.accepted is not None}
    return [
        f"run {run.visit}.{run.slot} is {run.outcome or 'open'} with {run.samples} of {iters[run.visit]} samples"
        for run in record.runs
        if run.visit in iters and (run.outcome is None or (run.outcome == "ok" and run.samples != iters[run.visit]))
    ]


def budgets_kept(record: Record, condemned: Mapping[str, Collection[str]], fired: Sequence[Fired]) -> list[str]:
    """A kill costs one job one attempt, and a job that should pass and failed for good met two kills of ours.

    That is what the budget is for: nobody can tell such a kill from a job that kills its runner. Nothing else that was
    done to a host may have cost a job anything. `condemned`: experiment -> jobs that failed for good and should not.
    """
    blocks = {block.id: block.experiment for block in record.blocks}
    experiment_of = {visit.id: blocks[visit.block] for visit in record.visits}
    kills = _kills(record, fired)
    charged = Counter(run.visit for run in record.runs if run.kind == Kind.KILLED)
    wrong = [
        f"visit {visit}: {kills[visit]} kills cost {n} jobs an attempt"
        for visit, n in charged.items()
        if n > kills[visit]
    ]
    for experiment, jobs in condemned.items():
        for job in jobs:
            runs = [r for r in record.runs if r.job == job and experiment_of[r.visit] == experiment and _blames(r)]
            ours = [r for r in runs if r.kind == Kind.KILLED and kills[r.visit]]
            if len(ours) < 2 or len(ours) < len(runs):
                said = ", ".join(f"{r.visit}.{r.slot} {r.kind}" for r in runs) or "no run of it failed by its fault"
                wrong.append(f"{experiment}: job {job[:12]} failed for good, with {len(ours)} kills of ours: {said}")
    return wrong


def kinds_match(record: Record, fired: Sequence[Fired], faulty: Collection[str]) -> list[str]:
    """Everything that failed, failed for something that was done to it, or was of the `faulty` jobs."""
    visits = {visit.id: visit for visit in record.visits}
    by_host = defaultdict(list)
    for fault in fired:
        by_host[fault.host].append(fault)
    with_faulty = {run.visit for run in record.runs if run.job in faulty}
    kills = _kills(record, fired)

    def is_explained(visit: Visit, kind: Kind) -> bool:
        if kind is Kind.KILLED:
            return kills[visit.id] > 0
        return any(kind in CAUSES[f.fault] and _touches(f, visit) for f in by_host[visit.host])

    wrong = [
        f"visit {visit.id} on {visit.host} is {visit.state} ({visit.kind}), and nothing was done that explains it"
        for visit in record.visits
        if visit.kind is not None and visit.id not in with_faulty and not is_explained(visit, Kind(visit.kind))
    ]
    wrong += [
        f"run {run.visit}.{run.slot} failed ({run.kind}), and nothing was done that explains it"
        for run in record.runs
        if run.kind is not None and run.job not in faulty and not is_explained(visits[run.visit], Kind(run.kind))
    ]
    return wrong


def faults_seen(record: Record, fired: Sequence[Fired], possible: Iterable[Fault]) -> list[str]:
    """Every fault was done at least once, and every runner that was killed is one that the ledger knows."""
    known = {(runner.pid, runner.start_time) for runner in record.runners}
    done = {f.fault for f in fired}
    return [
        *(
            f"{fault.value} was never done: let the soak last longer"
            for fault in dict.fromkeys(possible)
            if fault not in done
        ),
        *(
            f"the ledger has never heard of runner {f.pid} on {f.host}, which was killed"
            for f in fired
            if f.fault is Fault.RUNNER_KILL and (f.pid, f.start_time) not in known
        ),
    ]


def hits(record: Record, fired: Sequence[Fired]) -> int:
    """How many of the runners that were sent SIGKILL died of it, by the ledger: a few had just done their work."""
    died = {(r.pid, r.start_time) for r in record.runners if r.exit_status in {None, KILLED}}
    return sum(f.fault is Fault.RUNNER_KILL and (f.pid, f.start_time) in died for f in fired)


def _kills(record: Record, fired: Sequence[Fired]) -> Counter[int]:
    """How many runners of each visit were sent SIGKILL."""
    killed = {(f.pid, f.start_time) for f in fired if f.fault is Fault.RUNNER_KILL}
    return Counter(runner.visit for runner in record.runners if (runner.pid, runner.start_time) in killed)


def _touches(fired: Fired, visit: Visit) -> bool:
    is_before_its_end = visit.ended_ns is None or fired.at_ns <= visit.ended_ns
    return is_before_its_end and visit.leased_ns <= fired.until_ns + AFTERMATH_NS


def _blames(run: Run) -> bool:
    return run.kind is not None and blame(Kind(run.kind)) in {Blame.JOB, Blame.AMBIGUOUS}


def _has_failed(row: Mapping[str, Any]) -> bool:
    return str(row["state"]).startswith(("failed", "poisoned"))


def _repeated(things: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    return ((thing, n) for thing, n in Counter(things).items() if n > 1)


def _counts(states: Counter[str]) -> str:
    return ", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "nothing"
