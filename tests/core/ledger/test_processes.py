"""Several real processes and one ledger: who decides, who waits, who reads, and what a SIGKILL leaves."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from core.events import Entry, VisitEnded
from core.failures import Kind
from core.ledger.errors import LedgerError, LedgerHeld
from core.ledger.requests import ask, wait_for_answer
from core.ledger.writer import Ledger
from tests.core.ledger.conftest import Lab, matrix, runs

# Forked, so that a test does not wait for imports.
FORK = multiprocessing.get_context("fork")

DEADLINE_S = 20.0


@contextmanager
def process(work: Callable[..., None], *arguments: object) -> Iterator[tuple[int, Connection]]:
    """Runs `work(pipe, *arguments)` in a process of its own: its pid, and our end of the pipe."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=work, args=(theirs, *arguments))
    child.start()
    theirs.close()
    assert child.pid is not None
    try:
        yield child.pid, ours
    finally:
        child.kill()
        child.join()


def _receive(pipe: Connection) -> Any:
    assert pipe.poll(DEADLINE_S), "the other process said nothing"
    return pipe.recv()


def _hold(pipe: Connection, path: Path) -> None:
    """Holds the ledger, executes what is asked, until told to end."""
    with Ledger.open(path) as ledger:
        pipe.send(ledger.epoch)
        while not pipe.poll(0.01):
            if ledger.changed():
                for request in ledger.requests():
                    ledger.answer(request.id, f"{request.verb} {request.body['n']} done in epoch {ledger.epoch}")


def test_second_controller_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with process(_hold, path) as (pid, pipe):
        assert _receive(pipe) == 1
        with pytest.raises(LedgerHeld) as e:
            Ledger.open(path)
        assert (e.value.pid, e.value.exit_code) == (pid, 6)
        for part in (str(path), e.value.who, str(pid), e.value.machine, e.value.since):
            assert part in str(e.value)
        pipe.send("end")
        _until_open(path).close()


def test_second_controller_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db"), pytest.raises(LedgerHeld):
        Ledger.open(tmp_path / "." / "l.db")


def test_killed_controller_frees_the_ledger_at_once(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with process(_hold, path) as (pid, pipe):
        _receive(pipe)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        with _until_open(path) as ledger:
            # the half second is the kernel's part; opening a ledger on a busy machine has its own
            assert ledger.epoch == 2
        assert time.monotonic() - began < 0.5 + _opening_s(tmp_path)


def test_stopped_controller_still_holds_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with process(_hold, path) as (pid, pipe):
        _receive(pipe)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(LedgerHeld):
            Ledger.open(path)


def test_request_of_another_process_is_executed_and_answered(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with process(_hold, path) as (_, pipe):
        _receive(pipe)
        requests = [ask(path, "cancel", {"n": n}, "me") for n in range(5)]
        answers = [wait_for_answer(path, r, DEADLINE_S) for r in requests]
        assert answers == [f"cancel {n} done in epoch 1" for n in range(5)]


def test_request_is_not_lost_with_the_controller_it_was_asked_of(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with process(_hold, path) as (pid, pipe):
        _receive(pipe)
        os.kill(pid, signal.SIGSTOP)
        request = ask(path, "cancel", {"n": 1}, "me")
        assert wait_for_answer(path, request, 0.0) is None
        os.kill(pid, signal.SIGKILL)
        with _until_open(path) as ledger:
            (pending,) = ledger.requests()
            assert (pending.id, pending.verb, pending.body) == (request, "cancel", {"n": 1})
            ledger.answer(pending.id, "done")
            ledger.answer(pending.id, "done twice")
            assert ledger.requests() == ()
    assert wait_for_answer(path, request, 0.0) == "done"


@pytest.mark.parametrize("what", ["nothing", "text", "foreign"])
def test_asking_what_is_no_ledger_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "l.db"
    if what == "text":
        path.write_text("hello, this is no ledger")
    if what == "foreign":
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE t (a)")
    with pytest.raises(LedgerError, match=r"l\.db"):
        ask(path, "cancel", {}, "me")
    assert path.exists() == (what != "nothing")


def test_asking_needs_none_of_what_is_slow_to_load(tmp_path: Path) -> None:
    program = (
        "import sys, core.ledger, core.ledger.requests, core.ledger.paths, core.ledger.errors\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'sqlmodel', 'sqlalchemy', 'alembic', 'pydantic'}))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == ""


def _ask_many(pipe: Connection, path: Path, count: int) -> None:
    for n in range(count):
        ask(path, "note", {"n": n}, str(os.getpid()))
    pipe.send("done")


def _read_many(pipe: Connection, path: Path) -> None:
    """Reads until told to end: a run's samples are there with its end, all or none."""
    seen = 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=DEADLINE_S)) as db:
        pipe.send("ready")
        while not pipe.poll(0):
            rows = db.execute(
                "SELECT r.outcome, COUNT(s.i) FROM run r LEFT JOIN sample s ON s.run = r.id GROUP BY r.id"
            ).fetchall()
            torn = [row for row in rows if row not in {("ok", 3), ("failed", 0), ("stopped", 0), (None, 0)}]
            if torn:
                pipe.send(torn)
                return
            seen += 1
    pipe.send(seen)


def test_readers_and_askers_see_whole_transactions_and_never_fail(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        lab = Lab(ledger, path)
        lab.queue(matrix(blocks=20))
        lab.host("h1")
        with process(_read_many, path) as (_, reader), process(_ask_many, path, 20) as (_, one):
            assert _receive(reader) == "ready"
            for _ in range(20):
                lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: "ok"} if lab.blocks()[0].ordinal == 0 else {0: "ok"})
                if not lab.blocks():
                    break
            assert _receive(one) == "done"
            reader.send("end")
            assert isinstance(seen := _receive(reader), int) and seen > 0
        assert len(ledger.requests()) == 20


# -- SIGKILL in the middle of a stream of ingests ----------------------------------------------------------------------

VISITS = 12
SEEDS = 20


def _entries() -> list[Entry]:
    said = []
    for visit in range(1, VISITS + 1):
        ends = {0: "ok", 1: Kind.CRASH if visit % 3 == 0 else "ok", 2: Kind.WORKER_LOST if visit % 4 == 0 else "ok"}
        said += [(visit, body) for body in (*runs(ends), VisitEnded(state="finished"))]
    return [Entry(seq=i, at_ns=i, visit=visit, body=body) for i, (visit, body) in enumerate(said, 1)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with VISITS visits given up as lost, of which the host has yet to tell."""
    path = tmp_path_factory.mktemp("prepared") / "l.db"
    with Ledger.open(path, lambda: 5) as ledger:
        lab = Lab(ledger, path)
        lab.queue(matrix(blocks=VISITS))
        for block in [b.id for b in lab.blocks()]:
            ledger.lose(lab.lease("h1", block), Kind.HOST_LOST, "cut off")
    return path


def _ingest(pipe: Connection, path: Path, batch: int) -> None:
    entries = _entries()
    with Ledger.open(path, lambda: 5) as ledger:
        pipe.send("begun")
        for i in range(0, len(entries), batch):
            pipe.send(ledger.ingest("spool-h1", "h1", entries[i : i + batch]).acked_seq)


def _rows(path: Path) -> dict[str, Any]:
    """Everything but who heard of it: a later controller has another epoch."""
    tables = ("run", "sample", "metric", "block", "sitting", "forgiven")
    with closing(sqlite3.connect(path)) as db:
        rows = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}
        rows["visit"] = db.execute("SELECT id, block, state, kind, sitting FROM visit ORDER BY id").fetchall()
        rows["event"] = db.execute("SELECT spool, seq, visit, event, body FROM event ORDER BY 1, 2").fetchall()
        rows["spool"] = db.execute("SELECT id, acked_seq FROM spool ORDER BY id").fetchall()
    return rows


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed controller makes of it."""
    path = tmp_path_factory.mktemp("whole") / "l.db"
    shutil.copy(prepared, path)
    with Ledger.open(path, lambda: 5) as ledger:
        ledger.ingest("spool-h1", "h1", _entries())
    return _rows(path)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_writer_killed_anywhere_leaves_a_ledger_that_goes_on_to_the_same_rows(
    prepared: Path, whole: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "l.db"
    shutil.copy(prepared, path)
    entries = _entries()
    with process(_ingest, path, batch := chance.choice((1, 2, 5, 11))) as (pid, pipe):
        assert _receive(pipe) == "begun"
        acked = 0
        # some batches are acknowledged, then it dies wherever it is in the next
        for _ in range(chance.randrange(len(entries) // batch)):
            acked = _receive(pipe)
        time.sleep(chance.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        with _until_open(path) as ledger:
            stored = ledger.acked("spool-h1")
            assert stored >= acked, "what was acknowledged was on disk"
            _check(path, stored)
            again = ledger.ingest("spool-h1", "h1", entries)
            assert again.acked_seq == len(entries)
    rows = _rows(path)
    assert rows == whole


def _check(path: Path, stored: int) -> None:
    """The invariants that hold after any transaction."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert db.execute("SELECT COUNT(*), MAX(seq) FROM event WHERE spool = 'spool-h1'").fetchone() == (
            stored,
            stored or None,
        )
        ended = {visit for (visit,) in db.execute("SELECT visit FROM event WHERE event = 'visit_ended'")}
        assert {v for (v,) in db.execute("SELECT id FROM visit WHERE ended_at_ns IS NOT NULL")} == ended
        assert {v for (v,) in db.execute("SELECT accepted_visit FROM block WHERE accepted_visit IS NOT NULL")} <= ended
        told = db.execute("SELECT visit, json_extract(body, '$.slot') FROM event WHERE event = 'run_ended'").fetchall()
        assert db.execute("SELECT visit, slot FROM run WHERE outcome IS NOT NULL").fetchall() == sorted(told)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _until_open(path: Path) -> Ledger:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return Ledger.open(path, lambda: 5)
        except LedgerHeld:
            assert time.monotonic() < deadline, "the ledger was never free"
            time.sleep(0.005)


def _opening_s(directory: Path) -> float:
    """How long making and closing a ledger takes here and now."""
    began = time.monotonic()
    Ledger.open(directory / "other.db").close()
    return time.monotonic() - began


def test_lock_file_says_who_in_json(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.db"):
        said = json.loads((tmp_path / "l.db.lock").read_text())
    assert said["pid"] == os.getpid() and set(said) == {"who", "pid", "machine", "since"}
