"""Watching a ledger beside the controller that drives it, until there is nothing more to wait for.

It only reads. Who drives is asked before each reading, so that what is read after "nobody" is final.
"""

import sqlite3
import time
from pathlib import Path

from core.ledger import queries
from core.ledger.completeness import condemned
from core.ledger.ended import ended_ids, ended_visits
from core.ledger.holder import Holder, holder
from core.ledger.paths import log_path
from core.ledger.reader import open_reader
from core.ledger.stopped import stopped_advice
from core.lifecycle import HostState
from orchestrator.progress import Progress, visit_line
from orchestrator.session import EXIT_BLOCKED, EXIT_FAILED_JOBS

# As often as a controller looks for requests: a person notices no delay, and a look costs microseconds.
LOOK_S = 0.5


def follow(path: Path, name: str | None, progress: Progress) -> int:
    """Says what changes until the experiment (None: everything) is complete, or nobody drives it any more.

    Returns the exit code of a `run` that ended so. Raises LedgerError, UnknownExperiment, Ambiguous.
    """
    with open_reader(path) as db:
        watch = _Watch(db, path, queries.find_experiment(db, name).id if name else None, progress)
        db.rollback()
        version = None
        while True:
            held = holder(path)
            before, version = version, db.execute("PRAGMA data_version").fetchone()[0]
            watch.controller(held)
            if version != before or held is None:
                db.execute("BEGIN")
                code = watch.look(held)
                db.rollback()
                if code is not None:
                    return code
            time.sleep(LOOK_S)


class _Watch:
    """What was said already, so that only changes are."""

    def __init__(self, db: sqlite3.Connection, path: Path, scope: str | None, progress: Progress) -> None:
        self._db = db
        self._log = log_path(path)
        self._scope = scope
        self._progress = progress
        self._ended = ended_ids(db)
        self._hosts: dict[str, str] = {}
        self._controller = ""

    def controller(self, held: Holder | None) -> None:
        """Says who drives, and when that process is stopped."""
        if held is None:
            return
        advice = stopped_advice(held.pid, held.machine)
        doing = f"does nothing: {advice}" if advice else "drives"
        said = f"{held.who}'s controller (pid {held.pid} on {held.machine}, since {held.since}) {doing}"
        if said != self._controller:
            self._progress.say(said)
        self._controller = said

    def look(self, held: Holder | None) -> int | None:
        """Says what is new. Returns the exit code when that was all."""
        for ended in ended_visits(self._db, self._ended):
            self._ended.add(ended.visit)
            if self._scope in (None, ended.experiment):
                self._progress.visit_ended(visit_line(ended), ended.wall_s)
        if held is not None:
            self._tell_hosts()
        blocks = [b for b in queries.queue(self._db) if self._scope in (None, b.experiment)]
        running = sum(b.visit is not None for b in blocks)
        self._progress.left(len(blocks), running, running, "")
        if not blocks:
            return self._ended_well()
        if held is not None:
            return None
        paused = {b.experiment: b.paused for b in blocks if b.paused is not None}
        for experiment, why in paused.items():
            self._progress.say(f"{experiment} is paused: {why}; `hillclimb resume {experiment}` lets it go on")
        waiting = sum(b.paused is None for b in blocks)
        if not waiting:
            return self._ended_well()
        what = f" {self._scope}" if self._scope else ""
        log = f" ({self._log} may say why)" if self._log.exists() else ""
        self._progress.say(f"nobody drives this, {waiting} blocks are to go{log}: `hillclimb drive{what}` goes on")
        return EXIT_BLOCKED

    def _tell_hosts(self) -> None:
        """As the controller says it: once when a host's condition changes for the worse."""
        for c in queries.conditions(self._db):
            ill = c.reason and HostState(c.state) is not HostState.READY
            said = f"{c.host} is {c.state}: {c.reason}" if ill else ""
            if said and said != self._hosts.get(c.host):
                self._progress.say(said)
            self._hosts[c.host] = said

    def _ended_well(self) -> int:
        """Whether jobs failed for good is all that is left to tell."""
        experiments = [e for e in queries.experiments(self._db) if self._scope in (None, e.id)]
        failed = any(condemned(queries.record(self._db, e, samples=False)) for e in experiments)
        return EXIT_FAILED_JOBS if failed else 0
