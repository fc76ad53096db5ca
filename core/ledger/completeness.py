"""The proof that no cell vanishes: every cell is done, skipped, failed, cancelled or retired with its reason, or it is
said what is missing. Pure, over one series' rows.

Failures are weighed by `core.lifecycle`, as the writer weighs them when it settles a visit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from core.failures import Blame, Kind, blame
from core.ledger.counting import counted
from core.ledger.rows import Block, Cell, Record, Run, Visit
from core.lifecycle import OPEN_VISITS, History, Judgement, Outcome, Result, VisitState, failure, judge, remember


class CellState(StrEnum):
    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    POISONED = "poisoned"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    RETIRED = "retired"
    MISSING = "missing"


# In these a cell has its last word.
ENDED = frozenset(CellState) - {CellState.RUNNING, CellState.WAITING, CellState.MISSING}


class Standing(NamedTuple):
    """Where a cell stands. `blocks`: how many count for it, of `wanted`. `kind`: of the failure."""

    cell: Cell
    state: CellState
    reason: str
    blocks: int
    wanted: int
    kind: str | None = None

    @property
    def shown(self) -> str:
        """The state in a word, with the kind of a failure."""
        return f"{self.state}({self.kind})" if self.kind else self.state.value


class Condemned(NamedTuple):
    """A job that failed for good, in which visit. `poisoned`: ambiguously, on two hosts."""

    kind: Kind
    reason: str
    poisoned: bool
    visit: int


class _Facts(NamedTuple):
    record: Record
    condemned: Mapping[str, Condemned]
    unsupported: Mapping[str, str]
    counts: Counter[tuple[str, str]]
    measured: frozenset[str]
    checked: frozenset[str]
    blocks: Mapping[str, Sequence[Block]]
    running: frozenset[int]
    alone: frozenset[str]


def standings(record: Record) -> list[Standing]:
    """Of every cell of a series, in the matrix' order."""
    blocks: dict[str, list[Block]] = defaultdict(list)
    for block in record.blocks:
        for job in {slot.job for slot in block.slots}:
            blocks[job].append(block)
    counts: Counter[tuple[str, str]] = Counter()
    accepted = _accepted(record)
    measured = frozenset(run.job for run in accepted if run.outcome == Outcome.OK)
    checked = frozenset(run.job for run in accepted if run.outcome == Outcome.CHECKED)
    for item in counted(record):
        if item.partner is not None:
            counts[item.run.job, item.partner.job] += 1
        counts[item.run.job, item.run.job] += 1
    unsupported = {run.job: run.reason for run in accepted if run.outcome == Outcome.UNSUPPORTED}
    running = frozenset(v.block for v in record.visits.values() if VisitState(v.state) in OPEN_VISITS)
    failed = condemned(record)
    facts = _Facts(record, failed, unsupported, counts, measured, checked, blocks, running, _alone(record, failed))
    return [_standing(cell, facts) for cell in record.cells]


def _alone(record: Record, failed: Mapping[str, Condemned]) -> frozenset[str]:
    """The references of which every arm failed for good: they are not measured for their own sake."""
    arms: dict[str, set[str]] = defaultdict(set)
    for cell in record.cells:
        if cell.job is not None and cell.reference not in (None, cell.job) and cell.retired is None:
            arms[cell.reference or ""].add(cell.job)
    return frozenset(reference for reference, jobs in arms.items() if jobs <= failed.keys())


def condemned(record: Record) -> dict[str, Condemned]:
    """The jobs of a series that failed for good, since what `retry` forgave."""
    failed: dict[str, Condemned] = {}
    history = History()
    for visit, runs in _ended(record):
        results = [(run.job, _result(run)) for run in runs]
        for run, (job, result) in zip(runs, results, strict=True):
            if job not in failed and judge(job, result, history) is Judgement.CONDEMNED:
                kind, earlier = failure(result), history.ambiguous.get(job, ())
                poisoned = blame(kind) is Blame.AMBIGUOUS and visit.host not in earlier
                failed[job] = Condemned(kind, run.reason, poisoned, visit.id)
        history = remember(history, visit.host, results)
    return failed


def _ended(record: Record) -> Iterator[tuple[Visit, list[Run]]]:
    """Ended visits in the order they ended, with their closed runs that are not forgiven."""
    ended = [v for v in record.visits.values() if v.ended_at_ns is not None]
    runs: dict[int, list[Run]] = defaultdict(list)
    for run in record.runs:
        if run.outcome is not None and run.visit > record.forgiven.get(run.job, 0):
            runs[run.visit].append(run)
    for visit in sorted(ended, key=lambda v: (v.ended_at_ns or 0, v.id)):
        yield visit, runs[visit.id]


def _result(run: Run) -> Result:
    return Result(Outcome(run.outcome or Outcome.STOPPED), Kind(run.kind) if run.kind else None)


def _accepted(record: Record) -> list[Run]:
    visits = {block.accepted_visit for block in record.blocks}
    return [run for run in record.runs if run.visit in visits]


def _standing(cell: Cell, facts: _Facts) -> Standing:
    wanted = int(facts.record.series.measure.get("blocks", 1))
    if cell.job is None:
        return Standing(cell, CellState.SKIPPED, cell.why or "", 0, 0)
    count = facts.counts[cell.job, cell.reference or cell.job]
    state, reason, kind = _judged(cell, cell.job, count, wanted, facts)
    return Standing(cell, state, reason, count, wanted, kind)


def _judged(cell: Cell, job: str, count: int, wanted: int, facts: _Facts) -> tuple[CellState, str, str | None]:
    blocks = facts.blocks.get(job, ())
    open_blocks = [b for b in blocks if b.accepted_visit is None and b.closed is None]
    closed = [b.closed for b in blocks if b.closed is not None]
    own, reference = facts.condemned.get(job), facts.condemned.get(cell.reference or job)
    if cell.retired is not None:
        return CellState.RETIRED, cell.retired, None
    if own is not None:
        return CellState.POISONED if own.poisoned else CellState.FAILED, own.reason, own.kind
    if job in facts.unsupported:
        return CellState.SKIPPED, f"unsupported: {facts.unsupported[job]}", None
    if reference is not None and job in facts.measured:
        return CellState.DONE, f"measured, not compared: its reference failed ({reference.kind})", None
    if any(b.id in facts.running for b in open_blocks):
        return CellState.RUNNING, f"{count} of {wanted} blocks", None
    if open_blocks:
        return CellState.WAITING, f"{count} of {wanted} blocks", None
    if count >= wanted:
        return CellState.DONE, "", None
    if job in facts.checked:
        return CellState.DONE, "checked, not timed: its kernel is interpreted here", None
    if closed:
        return CellState.CANCELLED, f"{closed[0]} (after {count} of {wanted} blocks)", None
    if job in facts.alone:
        why = "dropped: all that is compared with it failed for good"
        return CellState.CANCELLED, f"{why} (after {count} of {wanted} blocks)", None
    return CellState.MISSING, f"{count} of {wanted} blocks and none is queued: run the matrix again", None
