"""The one writer of a ledger. Who has it open decides: the lock is held and the epoch is theirs until `close`.

Every method is one transaction, on disk when it returns. What the rows mean stands in the modules beside this one;
here they get their transaction, their time and their controller.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from core.events import Entry, RunEnded, VisitEnded
from core.failures import Kind
from core.ledger import blocks, schema, steering, visits
from core.ledger.enqueue import Enqueued, OnChange, enqueue
from core.ledger.ingest import Ingested, ingest
from core.ledger.lock import DeciderLock
from core.ledger.paths import check_place
from core.ledger.settling import EndedRun, EndedVisit
from core.ledger.snapshot import Snapshot
from core.ledger.survey import Views, survey
from core.ledger.tables import Controller, LedgerRow, Spool
from core.ledger.transaction import CONTROLLER_SPOOL, Transaction, explain
from core.lifecycle import HostState
from core.matrix import Expansion
from core.visit import Deadlines, Target, Visit

__all__ = ["EndedRun", "EndedVisit", "Enqueued", "Ingested", "Ledger", "OnChange", "PendingRequest"]

GENEROUS = Deadlines()

# Field 22 of /proc/PID/stat, counted after the command's closing parenthesis, which may itself hold spaces.
_START_TIME = 22 - 3


class PendingRequest(NamedTuple):
    """What another process asked for and nobody has answered yet."""

    id: int
    verb: str
    body: dict[str, Any]


class Ledger:
    """An open ledger. Made by `Ledger.open`; not to be used by two threads at once."""

    def __init__(self, path: Path, db: Connection, cleanup: ExitStack, clock: Callable[[], int]) -> None:
        self._path = path
        self._db = db
        self._cleanup = cleanup
        self._clock = clock
        self._views: Views | None = None
        driver = db.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._driver = driver
        self._version = self._data_version()
        self.epoch = 0
        self.ledger_id = ""

    @classmethod
    def open(cls, path: Path, clock: Callable[[], int] = time.time_ns) -> "Ledger":
        """Takes the lock, makes or migrates the file, and begins an epoch. Raises LedgerHeld, LedgerError."""
        check_place(path)
        with ExitStack() as cleanup:
            lock = cleanup.enter_context(DeciderLock(path, clock()))
            try:
                engine = schema.prepare(path)
                cleanup.callback(engine.dispose)
                ledger = cls(path, cleanup.enter_context(engine.connect()), cleanup, clock)
            except (DatabaseError, sqlite3.DatabaseError) as error:
                raise explain(path, getattr(error, "orig", None) or error) from error
            ledger._begin(lock)
            ledger._cleanup = cleanup.pop_all()
            return ledger

    def close(self) -> None:
        """Ends the epoch and lets the lock go."""
        with self._cleanup, self._transaction() as tx:
            tx.change("UPDATE controller SET ended_at_ns = :now WHERE epoch = :e", now=tx.now_ns, e=self.epoch)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # -- what is to be measured ------------------------------------------------------------------------------------

    def enqueue(self, expansion: Expansion, code: str, on_change: OnChange = OnChange.REFUSE) -> Enqueued:
        """Adds what a matrix names and the ledger lacks. Raises SeriesChanged."""
        with self._transaction() as tx:
            return enqueue(tx, expansion, code, on_change)

    def snapshot(self) -> Snapshot:
        with self._transaction() as tx:
            snapshot, self._views = survey(tx, self._views)
            return snapshot

    def close_blocks(self, ids: Iterable[int], why: str) -> int:
        """Closes those that are open; how many. `why` begins with cancelled, poisoned or dropped."""
        with self._transaction() as tx:
            return blocks.close_blocks(tx, ids, why)

    # -- visits ----------------------------------------------------------------------------------------------------

    def lease(self, block: int, host: str, order: Sequence[int], bundle: str = "") -> int:
        """Opens a visit of these slots of a block on a host; its id, larger than all before. Raises Refused."""
        with self._transaction() as tx:
            return visits.lease(tx, block, host, order, bundle)

    def see_bundle(self, bundle: str, code: str, revision: str, diff: str) -> None:
        """Code that a host is given: its id, its code hash, the commit, and the hash of what is not committed."""
        with self._transaction() as tx:
            tx.change(
                "INSERT INTO bundle (id, code, revision, diff) VALUES (:id, :code, :revision, :diff) "
                "ON CONFLICT DO NOTHING",
                id=bundle,
                code=code,
                revision=revision,
                diff=diff,
            )

    def visit(self, visit_id: int, target: Target, code: str, deadlines: Deadlines = GENEROUS) -> Visit:
        """A visit, complete enough to be executed."""
        with self._transaction() as tx:
            return visits.describe(tx, visit_id, target, code, deadlines)

    def lose(self, visit: int, kind: Kind, reason: str) -> bool:
        """An open visit is suspected lost. False when it was not open."""
        with self._transaction() as tx:
            return visits.lose(tx, visit, kind, reason)

    def take_back(self, visit: int) -> bool:
        """A lost visit proved alive. False when its block or its host have gone on without it."""
        with self._transaction() as tx:
            return visits.take_back(tx, visit)

    # -- what hosts say --------------------------------------------------------------------------------------------

    def see_host(self, name: str, machine: str, platform: str, devices: int) -> None:
        with self._transaction() as tx:
            tx.change(
                "INSERT INTO host (name, machine, platform, devices, seen_at_ns) "
                "VALUES (:name, :machine, :platform, :devices, :now) ON CONFLICT DO UPDATE SET "
                "machine = excluded.machine, platform = excluded.platform, devices = excluded.devices, "
                "seen_at_ns = excluded.seen_at_ns",
                name=name,
                machine=machine,
                platform=platform,
                devices=devices,
                now=tx.now_ns,
            )

    def see_condition(self, host: str, state: HostState, reason: str) -> None:
        """What its controller makes of a host now. One that is set aside has paid for what it did before."""
        with self._transaction() as tx:
            trusted_from = tx.one("SELECT COALESCE(MAX(id), 0) AS visit FROM visit").visit
            tx.change(
                "INSERT INTO condition (host, state, reason, since_ns, trusted_from) "
                "VALUES (:host, :state, :reason, :now, 0) ON CONFLICT DO UPDATE SET "
                "state = excluded.state, reason = excluded.reason, since_ns = excluded.since_ns",
                host=host,
                state=state.value,
                reason=reason,
                now=tx.now_ns,
            )
            if state is HostState.QUARANTINED:
                self._views = None
                tx.change("UPDATE condition SET trusted_from = :v WHERE host = :host", v=trusted_from, host=host)
                tx.note("quarantined", reason, host)

    def new_spool(self, host: str, spool_id: str) -> tuple[int, ...]:
        """A host names the spool it writes; the visits that are lost with the one before."""
        self._views = None
        with self._transaction() as tx:
            return visits.new_spool(tx, host, spool_id)

    def spool_of(self, host: str) -> str | None:
        with self._transaction() as tx:
            return visits.spool_of(tx, host)

    def acked(self, spool_id: str) -> int:
        """Everything of a spool up to this sequence number is stored."""
        with self._transaction() as tx:
            row = tx.first("SELECT acked_seq FROM spool WHERE id = :s", s=spool_id)
            return 0 if row is None else int(row.acked_seq)

    def ingest(self, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        """Stores what is new of a spool's lines. Raises Refused for a spool nobody named."""
        with self._transaction() as tx:
            stored = ingest(tx, spool_id, host, entries)
        if any(isinstance(entry.body, RunEnded | VisitEnded) for entry in entries):
            self._views = None
        return stored

    def note(self, what: str, why: str, host: str | None = None, visit: int | None = None) -> None:
        """A decision of the controller, as an event."""
        with self._transaction() as tx:
            tx.note(what, why, host, visit)

    # -- what people ask -------------------------------------------------------------------------------------------

    def pause(self, experiment: str, reason: str) -> str:
        with self._transaction() as tx:
            return steering.pause(tx, experiment, reason)

    def alarm(self, series: int, experiment: str, reason: str) -> None:
        """Pauses the experiment because the first jobs of its series failed alike; a series does so once."""
        with self._transaction() as tx:
            first = tx.first(
                "SELECT r.reason FROM run r CROSS JOIN visit v ON v.id = r.visit CROSS JOIN block b ON b.id = v.block "
                "WHERE r.outcome = 'failed' AND b.series = :s AND r.reason <> '' ORDER BY r.id LIMIT 1",
                s=series,
            )
            said = f"; the first said: {first.reason.splitlines()[0][:500]}" if first else ""
            steering.pause(tx, experiment, reason + said)
            tx.change("INSERT INTO alarm (series, raised_at_ns) VALUES (:s, :now)", s=series, now=tx.now_ns)

    def resume(self, experiment: str) -> str:
        with self._transaction() as tx:
            return steering.resume(tx, experiment)

    def cancel(self, experiment: str, where: Mapping[str, str]) -> str:
        """Raises UnknownExperiment."""
        with self._transaction() as tx:
            return steering.cancel(tx, experiment, where)

    def retry(self, experiment: str, where: Mapping[str, str]) -> str:
        """Raises UnknownExperiment."""
        self._views = None
        with self._transaction() as tx:
            return steering.retry(tx, experiment, where)

    def changed(self) -> bool:
        """Whether somebody else has written since this was last asked. Costs microseconds."""
        before, self._version = self._version, self._data_version()
        return self._version != before

    def requests(self) -> tuple[PendingRequest, ...]:
        """What other processes ask for, first asked first."""
        with self._transaction() as tx:
            rows = tx.all("SELECT id, verb, body FROM request WHERE answered_at_ns IS NULL ORDER BY id")
            return tuple(PendingRequest(row.id, row.verb, json.loads(row.body)) for row in rows)

    def answer(self, request: int, text: str) -> None:
        with self._transaction() as tx:
            tx.change(
                "UPDATE request SET answer = :text, answered_at_ns = :now WHERE id = :id AND answered_at_ns IS NULL",
                text=text,
                now=tx.now_ns,
                id=request,
            )

    # -- within ----------------------------------------------------------------------------------------------------

    def _begin(self, lock: DeciderLock) -> None:
        """The next epoch, and on the first one the ledger's own identity."""
        with self._transaction() as tx:
            known = tx.first("SELECT id FROM ledger")
            self.ledger_id = known.id if known else secrets.token_hex(8)
            if known is None:
                tx.add(LedgerRow(id=self.ledger_id, created_at_ns=tx.now_ns))
                tx.add(Spool(id=CONTROLLER_SPOOL, acked_seq=0, turn=0))
            self.epoch = tx.add(
                Controller(
                    pid=lock.pid,
                    start_time=int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[_START_TIME]),
                    user=lock.user,
                    machine=lock.machine,
                    began_at_ns=tx.now_ns,
                )
            )

    def _data_version(self) -> int:
        return int(self._driver.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        try:
            with self._db.begin():
                yield Transaction(self._db, self._clock(), self.epoch)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise explain(self._path, getattr(error, "orig", None) or error) from error
