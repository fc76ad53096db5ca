import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.events import Entry, VisitEnded
from core.failures import Kind
from core.ledger import queries
from core.ledger.errors import LedgerError, UnknownExperiment
from core.ledger.holder import holder
from core.ledger.paths import lock_path
from core.ledger.queries import Ambiguous, NothingMatched, pick
from core.ledger.reader import open_reader
from core.ledger.writer import Ledger
from core.matrix import Overrides, expand

MATRIX = """
[experiment]
id = "{id}"
goal = "Does the seed matter?"
[job]
kind = "selftest"
[axes]
seed = [0, 1]
[baseline]
seed = 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with two experiments queued."""
    path = tmp_path / "a ledger?#%41.db"
    with Ledger.open(path) as ledger:
        for name in ("seeds", "seeds-again"):
            ledger.enqueue(expand(MATRIX.format(id=name), "m.toml", Overrides()), "c0de")
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    with open_reader(path) as connection:
        yield connection


def test_record_of_a_queued_experiment_has_its_cells_jobs_and_blocks(db: sqlite3.Connection) -> None:
    record = queries.record(db, queries.find_experiment(db, "seeds"))
    assert [cell.coordinates for cell in record.cells] == [{"seed": "0"}, {"seed": "1"}]
    assert {cell.reference for cell in record.cells} == {record.cells[0].job}
    assert [block.ordinal for block in record.blocks] == [0, 1, 2, 3, 4, 5]
    assert [slot.reference for slot in record.blocks[0].slots] == [0, 0]
    assert set(record.jobs) == {cell.job for cell in record.cells}
    assert (record.series.measure["blocks"], record.series.interleaved, record.series.code) == (6, ("seed",), "c0de")


def test_find_experiment_exact_id_before_the_prefix_it_is_of_others(db: sqlite3.Connection) -> None:
    assert queries.find_experiment(db, "seeds").id == "seeds"
    assert queries.find_experiment(db, "seeds-").id == "seeds-again"
    with pytest.raises(Ambiguous, match="seeds, seeds-again: give more of it"):
        queries.find_experiment(db, "see")
    with pytest.raises(UnknownExperiment, match="did you mean 'seeds'"):
        queries.find_experiment(db, "sedes")


def test_find_series_unknown_ordinal_names_the_known(db: sqlite3.Connection) -> None:
    with pytest.raises(NothingMatched, match="seeds has no series 2: it has 1"):
        queries.find_series(db, "seeds", 2)


def test_pick_many_candidates_are_shortened() -> None:
    with pytest.raises(Ambiguous, match="a0, a1, a2, a3, a4, a5, a6, a7, …: give more"):
        pick("job", "a", [f"a{i}" for i in range(10)], "")


def test_queue_is_in_the_order_the_controller_takes_it_up(path: Path) -> None:
    with Ledger.open(path) as ledger:
        # a visit that comes to nothing puts its block in front of all others
        ledger.see_host("h1", "m1", "cpu", 4)
        ledger.new_spool("h1", "spool")
        visit = ledger.lease(ledger.snapshot().blocks[-1].id, "h1", [0, 1])
        lost = VisitEnded(state="failed", kind=Kind.WORKER_LOST, reason="it died")
        ledger.ingest("spool", "h1", [Entry(seq=1, at_ns=1, visit=visit, body=lost)])
        order = [block.id for block in ledger.snapshot().blocks]
        with open_reader(path) as db:
            assert [block.block for block in queries.queue(db)] == order


def test_reader_sees_one_moment_while_somebody_writes(path: Path, db: sqlite3.Connection) -> None:
    before = queries.experiments(db)
    with Ledger.open(path) as ledger:
        ledger.pause("seeds", "meanwhile")
    assert queries.experiments(db) == before
    with open_reader(path) as later:
        assert queries.experiments(later)[0].paused == "meanwhile"


def test_reader_cannot_write(db: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM experiment")


def test_reader_in_a_directory_without_write_permission_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the permission is taken away in the question that is asked for it."""
    beside = path.parent
    for leftover in beside.glob("*-shm"):
        leftover.unlink()
    monkeypatch.setattr(os, "access", lambda where, mode: not (Path(where) == beside and mode == os.W_OK))
    with open_reader(path) as db:
        assert len(queries.experiments(db)) == 2
        # an immutable database makes no files beside it
        assert not list(beside.glob("*-shm")) and not list(beside.glob("*-wal"))


def test_reader_damaged_file_names_the_way_out(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 12] = b"\xff" * (4096 * 11)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"damaged .*go back to a backup"), open_reader(path) as db:
        for experiment in queries.experiments(db):
            queries.record(db, experiment)


def test_reader_a_programming_error_is_not_called_damage(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), open_reader(path) as db:
        db.execute("SELECT 1 FROM nope")


def test_holder_only_while_the_lock_is_held(path: Path) -> None:
    assert holder(path) is None
    with Ledger.open(path):
        held = holder(path)
        assert held is not None and held.pid == os.getpid()
    # the file stays, with what its last holder said
    assert lock_path(path).read_text()
    assert holder(path) is None


def test_holder_of_a_ledger_without_a_lock_file_is_nobody(tmp_path: Path) -> None:
    assert holder(tmp_path / "never.db") is None


def test_holder_with_an_unreadable_word_is_somebody(path: Path) -> None:
    with Ledger.open(path):
        lock_path(path).write_text("")
        held = holder(path)
        assert held is not None and "just begun" in held.who


def test_open_readers_two_at_once_do_not_block_each_other(path: Path) -> None:
    counts: list[int] = []

    def read() -> None:
        with open_reader(path) as db:
            counts.append(len(queries.experiments(db)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert counts == [2] * 4
