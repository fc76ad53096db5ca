"""Somebody reads the ledger for as long as a whole matrix takes: nobody waits for them, and they see one state."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.transport import HostSilent
from tests.faults.shell import Wire, drive
from tests.faults.trial import Trial

pytestmark = pytest.mark.slow


async def test_reader_in_one_transaction_for_a_whole_matrix_holds_nobody_up(tmp_path: Path) -> None:
    trial = Trial(tmp_path, {}, "", groups=2, sleep_s=0.05)
    readers: list[sqlite3.Connection] = []
    seen = "SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM visit WHERE ended_at_ns NOTNULL)"

    def begin_to_read(_: str) -> HostSilent | None:
        if not readers and trial.events("runner_began"):
            readers.append(sqlite3.connect(f"file:{trial.ledger}?mode=ro", uri=True, isolation_level=None))
            readers[0].execute("BEGIN")
            readers[0].execute(seen).fetchone()
        return None

    finish, said = await drive(trial, Wire(tmp_path / "state", begin_to_read), ["one", "two"])
    assert (finish.blocked, finish.paused) == ("", ""), said
    trial.assert_complete()
    (reader,) = readers
    with closing(reader):
        before = reader.execute(seen).fetchone()
        (after,) = trial.rows(seen)
        assert before[1] == 0
        assert after[1] == 4
        assert before[0] < after[0]
