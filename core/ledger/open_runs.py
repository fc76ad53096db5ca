"""The runs that a batch of events is about: what is said of them is gathered here and written at once.

While a run is open its last word counts: a fresh process that measures a slot anew says everything again.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from core.events import Compiled, Environment, Metric, RunEnded, RunnerBegan, Samples
from core.ledger.memory import result
from core.ledger.transaction import Transaction
from core.lifecycle import Outcome, VisitState, failure


@dataclass(slots=True)
class OpenRun:
    """A row of `run` in the making."""

    id: int
    job: str
    process: int | None
    environment: str | None
    program: str | None
    inputs: str | None
    outcome: str | None
    kind: str | None = None
    phase: str | None = None
    reason: str = ""
    exit_status: str = ""
    stderr_tail: str = ""

    def row(self) -> tuple[Any, ...]:
        return (
            self.process,
            self.environment,
            self.program,
            self.inputs,
            self.outcome,
            self.kind,
            self.phase,
            self.reason,
            self.exit_status,
            self.stderr_tail,
            self.id,
        )


@dataclass(slots=True)
class VisitRuns:
    """A visit and its runs by slot, as they are before the batch and become in it."""

    id: int
    host: str
    state: VisitState
    runs: dict[int, OpenRun]

    def open_runs(self) -> list[OpenRun]:
        return [run for run in self.runs.values() if run.outcome is None]


@dataclass(slots=True)
class RunWriter:
    """Gathers, then writes: samples and numbers first, since the database takes none for a closed run."""

    tx: Transaction
    _changed: dict[int, OpenRun] = field(default_factory=dict)
    _samples: list[tuple[int, int, int]] = field(default_factory=list)
    _metrics: list[tuple[int, str, str, float, int, str]] = field(default_factory=list)
    _environments: dict[str, str] = field(default_factory=dict)
    _programs: dict[str, str] = field(default_factory=dict)

    def load(self, visit: int) -> VisitRuns | None:
        row = self.tx.first("SELECT host, state FROM visit WHERE id = :v", v=visit)
        if row is None:
            return None
        runs = self.tx.all(
            "SELECT slot, id, job, process, environment, program, inputs, outcome FROM run WHERE visit = :v", v=visit
        )
        return VisitRuns(visit, row.host, VisitState(row.state), {row[0]: OpenRun(*row[1:]) for row in runs})

    def runner_began(self, visit: VisitRuns, said: RunnerBegan) -> None:
        for slot in said.slots:
            run = visit.runs.get(slot)
            if run is not None and run.outcome is None:
                run.process = said.process
                self._changed[run.id] = run

    def environment(self, visit: VisitRuns, said: Environment) -> None:
        facts = json.dumps(said.facts, sort_keys=True)
        digest = hashlib.sha256(facts.encode()).hexdigest()
        self._environments[digest] = facts
        for run in visit.open_runs():
            if run.process == said.process:
                run.environment = digest
                self._changed[run.id] = run

    def compiled(self, run: OpenRun, said: Compiled) -> None:
        self._programs.setdefault(said.program, run.job)
        run.program, run.inputs = said.program, said.inputs
        self._changed[run.id] = run
        for name, value in (
            ("lower_ns", said.lower_ns),
            ("compile_ns", said.compile_ns),
            ("compile_cached", said.cached),
        ):
            self._metrics.append((run.id, name, "", float(value), 1, ""))

    def metric(self, run: OpenRun, said: Metric) -> None:
        self._metrics.append((run.id, said.name, said.scope, said.value, said.devices, said.formula))

    def samples(self, run: OpenRun, said: Samples) -> None:
        self._samples += [(run.id, i, ns) for i, ns in enumerate(said.wall_ns, said.first)]

    def ended(self, run: OpenRun, said: RunEnded) -> None:
        run.outcome = said.outcome
        end = result(said.outcome, said.kind)
        run.kind = failure(end).value if end.outcome is Outcome.FAILED else None
        run.phase = said.phase
        run.reason, run.exit_status, run.stderr_tail = said.reason, said.exit_status, said.stderr_tail
        self._changed[run.id] = run

    def stop(self, run: OpenRun, reason: str) -> None:
        """Closes a run that nobody will end any more."""
        run.outcome, run.reason = Outcome.STOPPED.value, reason
        self._changed[run.id] = run

    def flush(self) -> None:
        self.tx.change_many(
            "INSERT INTO environment (id, facts) VALUES (?, ?) ON CONFLICT DO NOTHING", list(self._environments.items())
        )
        self.tx.change_many(
            "INSERT INTO program (fingerprint, job) VALUES (?, ?) ON CONFLICT DO NOTHING", list(self._programs.items())
        )
        self.tx.change_many(
            "INSERT INTO sample (run, i, wall_ns) VALUES (?, ?, ?) "
            "ON CONFLICT (run, i) DO UPDATE SET wall_ns = excluded.wall_ns",
            self._samples,
        )
        self.tx.change_many(
            "INSERT INTO metric (run, name, scope, value, devices, formula) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (run, name, scope) DO UPDATE "
            "SET value = excluded.value, devices = excluded.devices, formula = excluded.formula",
            self._metrics,
        )
        self.tx.change_many(
            "UPDATE run SET process = ?, environment = ?, program = ?, inputs = ?, outcome = ?, kind = ?, phase = ?, "
            "reason = ?, exit_status = ?, stderr_tail = ? WHERE id = ? AND outcome IS NULL",
            [run.row() for run in self._changed.values()],
        )
        for gathered in (self._environments, self._programs, self._samples, self._metrics, self._changed):
            gathered.clear()
