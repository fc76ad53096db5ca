"""The end of a visit: its state, what it was worth, and what follows for its block, in one transaction.

What it was worth is decided by `core.lifecycle.settle`; here that becomes rows.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from core.events import VisitEnded
from core.failures import Blame, Kind, blame
from core.ledger.blocks import Place, make_block, parse_slots, subset
from core.ledger.memory import history_of, result
from core.ledger.transaction import Transaction
from core.lifecycle import Outcome, Result, Settlement, VisitState, check, settle


class EndedRun(NamedTuple):
    """`median_ns`: of its iterations, None when it has none."""

    slot: int
    job: str
    outcome: Outcome
    kind: Kind | None
    median_ns: float | None


class EndedVisit(NamedTuple):
    """What became of a visit. `make_up`: the block that measures the rest; `condemned`: jobs that failed for good in
    it; `wall_s`: from its lease to the news of its end, on the controller's clock."""

    visit: int
    block: int
    host: str
    experiment: str
    state: VisitState
    kind: Kind | None
    reason: str
    accepted: bool
    make_up: int | None
    condemned: Mapping[str, Kind]
    runs: tuple[EndedRun, ...]
    wall_s: float


def end_visit(tx: Transaction, visit: int, said: VisitEnded) -> EndedVisit:
    """Ends a visit that is leased, running or lost, and whose runs are all closed. Raises IllegalTransition."""
    row = tx.one(
        "SELECT v.id, v.host, v.state, v.slot_order, v.leased_at_ns, v.block, b.series, b.grp, b.slots, b.front, "
        "b.accepted_visit, b.closed, s.experiment "
        "FROM visit v JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series WHERE v.id = :v",
        v=visit,
    )
    runs = tx.all("SELECT id, slot, job, outcome, kind FROM run WHERE visit = :v ORDER BY slot", v=visit)
    state = VisitState(said.state)
    kind = Kind.CANCELLED if state is VisitState.CANCELLED else said.kind
    settlement = None
    if row.accepted_visit is not None:
        state, kind = VisitState.SUPERSEDED, Kind.SUPERSEDED
        tx.note("superseded", f"visit {row.accepted_visit} of block {row.block} ended first", row.host, visit)
    elif row.closed is None and (state is VisitState.FINISHED or not _rival(tx, row)):
        settlement = _settle(tx, row, runs)
    check(VisitState(row.state), state)
    tx.change(
        "UPDATE visit SET state = :state, kind = :kind, reason = :reason, ended_at_ns = :now, ended_epoch = :epoch "
        "WHERE id = :v",
        v=visit,
        state=state.value,
        kind=kind,
        reason=said.reason,
        now=tx.now_ns,
        epoch=tx.epoch,
    )
    make_up = _apply(tx, row, settlement, said) if settlement else None
    return EndedVisit(
        visit=visit,
        block=row.block,
        host=row.host,
        experiment=row.experiment,
        state=state,
        # what its host went through is news of the host, also when the visit came too late
        kind=said.kind or kind,
        reason=said.reason,
        accepted=settlement is not None and settlement.accept,
        make_up=make_up,
        condemned=settlement.condemned if settlement else {},
        runs=_ended_runs(tx, visit, runs),
        wall_s=(tx.now_ns - row.leased_at_ns) / 1e9,
    )


def _rival(tx: Transaction, row: Any) -> bool:
    """Another visit of the block is under way: one that was cut short does not take the block from it."""
    return bool(
        tx.all(
            "SELECT 1 FROM visit WHERE block = :b AND id <> :v AND state IN ('leased', 'running')",
            b=row.block,
            v=row.id,
        )
    )


def _settle(tx: Transaction, row: Any, runs: Any) -> Settlement:
    arms = parse_slots(row.slots)
    leased = set(json.loads(row.slot_order))
    history = history_of(tx, row.series, {arm.job for arm in arms})
    forgiven = {
        f.job for f in tx.all("SELECT job FROM forgiven WHERE series = :s AND visit >= :v", s=row.series, v=row.id)
    }
    results = {
        # a failure that was forgiven while it was under way is no end: the slot is measured again
        run.slot: Result(Outcome.STOPPED)
        if run.outcome == Outcome.FAILED and run.job in forgiven
        else result(run.outcome, run.kind)
        for run in runs
    }
    return settle(arms, results, history, frozenset(arm.slot for arm in arms if arm.slot not in leased))


def _apply(tx: Transaction, row: Any, settlement: Settlement, said: VisitEnded) -> int | None:
    """The block's new state; the id of the make-up block, if one is needed."""
    if not settlement.accept:
        # a process that died before it came to any slot says so only in the visit's end
        elsewhere = settlement.retry or (said.kind is not None and blame(said.kind) is Blame.AMBIGUOUS)
        tx.change(
            "UPDATE block SET front = front + 1, avoid_host = COALESCE(:avoid, avoid_host) WHERE id = :b",
            avoid=row.host if elsewhere else None,
            b=row.block,
        )
        return None
    accepted = tx.change(
        "UPDATE block SET accepted_visit = :v WHERE id = :b AND accepted_visit IS NULL AND closed IS NULL",
        v=row.id,
        b=row.block,
    )
    assert accepted == 1, "the block was open in this transaction"
    if not settlement.make_up:
        return None
    arms = parse_slots(row.slots)
    place = Place(row.series, row.grp, "make-up", front=1, avoid_host=row.host if settlement.retry else None)
    block = make_block(tx, place, subset(arms, settlement.make_up))
    tx.note(
        "make-up", f"block {block} measures slots {list(settlement.make_up)} of block {row.block}", row.host, row.id
    )
    return block


def _ended_runs(tx: Transaction, visit: int, runs: Any) -> tuple[EndedRun, ...]:
    samples: dict[int, list[int]] = defaultdict(list)
    for run, wall_ns in tx.all(
        "SELECT s.run, s.wall_ns FROM run r JOIN sample s ON s.run = r.id WHERE r.visit = :v", v=visit
    ):
        samples[run].append(wall_ns)
    return tuple(
        EndedRun(
            run.slot,
            run.job,
            Outcome(run.outcome),
            Kind(run.kind) if run.kind else None,
            median(samples[run.id]) if samples[run.id] else None,
        )
        for run in runs
    )
