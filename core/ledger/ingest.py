"""Events of a host's spool into rows: each once, in order, a batch a transaction.

Every event is stored word for word. One that fits nothing (an unknown visit or slot, a run or visit that is over) is
stored all the same and said to be stray in an event of the controller's own: what a host says never stops a controller.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from core.events import (
    Compiled,
    Decided,
    Entry,
    Environment,
    HostFault,
    Metric,
    PhaseBegan,
    Probed,
    RunEnded,
    RunnerBegan,
    RunnerExited,
    Samples,
    VisitBegan,
    VisitEnded,
)
from core.ledger.errors import Refused
from core.ledger.open_runs import OpenRun, RunWriter, VisitRuns
from core.ledger.settling import EndedVisit, end_visit
from core.ledger.tables import Probe
from core.ledger.transaction import Transaction
from core.lifecycle import OPEN_VISITS, VisitState


class Ingested(NamedTuple):
    """`acked_seq`: everything up to it is stored. `ended`: the visits this batch ended, in their order."""

    acked_seq: int
    ended: tuple[EndedVisit, ...]


def ingest(tx: Transaction, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
    """Stores what is new of `entries`. Raises Refused for a spool that was never registered for this host."""
    spool = tx.first("SELECT host, acked_seq FROM spool WHERE id = :s", s=spool_id)
    if spool is None or spool.host != host:
        raise Refused(f"spool {spool_id} of {host} is not registered: new_spool comes first")
    batch = _Batch(tx, host)
    rows = []
    acked = spool.acked_seq
    for entry in sorted(entries, key=lambda e: e.seq):
        if entry.seq <= acked:
            continue
        if entry.seq != acked + 1:
            tx.note("gap", f"spool {spool_id}: events {acked + 1} to {entry.seq - 1} never came", host)
        acked = entry.seq
        body = entry.body
        rows.append((spool_id, acked, entry.at_ns, entry.visit, host, body.event, body.model_dump_json()))
        batch.apply(entry)
    tx.change_many("INSERT INTO event (spool, seq, at_ns, visit, host, event, body) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    batch.finish()
    tx.change("UPDATE spool SET acked_seq = :acked WHERE id = :s", acked=acked, s=spool_id)
    return Ingested(acked, tuple(batch.ended))


class _Batch:
    """What one call of `ingest` has seen so far."""

    def __init__(self, tx: Transaction, host: str) -> None:
        self._tx = tx
        self._host = host
        self._writer = RunWriter(tx)
        self._visits: dict[int, VisitRuns | None] = {}
        self._strays: Counter[tuple[int | None, str]] = Counter()
        self.ended: list[EndedVisit] = []

    def apply(self, entry: Entry) -> None:
        # the most frequent first: most lines of a run are numbers and phases
        match entry.body:
            case Metric() as said:
                if run := self._open_run(entry.visit, said.slot):
                    self._writer.metric(run, said)
            case PhaseBegan() | RunnerExited() | HostFault() | Decided():
                pass
            case Samples() as said:
                if run := self._open_run(entry.visit, said.slot):
                    self._writer.samples(run, said)
            case Compiled() as said:
                if run := self._open_run(entry.visit, said.slot):
                    self._writer.compiled(run, said)
            case RunEnded() as said:
                if run := self._open_run(entry.visit, said.slot):
                    self._writer.ended(run, said)
            case Probed() as said:
                self._tx.add(
                    Probe(
                        host=self._host,
                        at_ns=entry.at_ns,
                        clean=int(said.clean),
                        reason=said.reason,
                        free_disk_bytes=said.free_disk_bytes,
                    )
                )
            case RunnerBegan() as said:
                if visit := self._visit(entry.visit):
                    self._writer.runner_began(visit, said)
            case Environment() as said:
                if visit := self._visit(entry.visit):
                    self._writer.environment(visit, said)
            case VisitBegan() as said:
                if visit := self._visit(entry.visit):
                    self._began(visit, said, entry.at_ns)
            case VisitEnded() as said:
                if visit := self._visit(entry.visit):
                    self._end(visit, said)

    def finish(self) -> None:
        self._writer.flush()
        for (visit, why), times in self._strays.items():
            self._tx.note("stray", f"{times} events: {why}", self._host, visit)

    def _visit(self, visit: int | None) -> VisitRuns | None:
        """The visit, if it is one of this host."""
        if visit is not None and visit not in self._visits:
            found = self._writer.load(visit)
            self._visits[visit] = found if found and found.host == self._host else None
        known = self._visits[visit] if visit is not None else None
        if known is None:
            self._strays[visit, "no such visit was leased to this host"] += 1
        return known

    def _open_run(self, visit_id: int | None, slot: int) -> OpenRun | None:
        visit = self._visit(visit_id)
        if visit is None:
            return None
        run = visit.runs.get(slot)
        if run is None:
            self._strays[visit.id, f"slot {slot} was not leased"] += 1
            return None
        if run.outcome is not None:
            self._strays[visit.id, f"the run of slot {slot} is closed"] += 1
            return None
        return run

    def _began(self, visit: VisitRuns, said: VisitBegan, at_ns: int) -> None:
        self._tx.change(
            "INSERT INTO sitting (id, host, began_at_ns) VALUES (:id, :host, :at) ON CONFLICT DO NOTHING",
            id=said.sitting,
            host=self._host,
            at=at_ns,
        )
        self._tx.change("UPDATE visit SET sitting = :sitting WHERE id = :v", sitting=said.sitting, v=visit.id)
        if visit.state is VisitState.LEASED:
            self._tx.change("UPDATE visit SET state = 'running' WHERE id = :v AND state = 'leased'", v=visit.id)
            visit.state = VisitState.RUNNING

    def _end(self, visit: VisitRuns, said: VisitEnded) -> None:
        for run in visit.open_runs():
            self._writer.stop(run, said.reason or f"the visit {said.state} before this slot")
        if visit.state in OPEN_VISITS or visit.state is VisitState.LOST:
            self._writer.flush()
            ended = end_visit(self._tx, visit.id, said)
            visit.state = ended.state
            self.ended.append(ended)
        elif visit.state is not VisitState.CANCELLED:
            self._strays[visit.id, f"the visit is over: {visit.state}"] += 1
