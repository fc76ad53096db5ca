"""Steering without a controller: at once, in the order asked, and never by making a ledger of a misspelt path."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from core.errors import HillclimbError
from core.ledger.errors import LedgerError, UnknownExperiment
from core.ledger.queries import Ambiguous
from core.ledger.reader import open_reader
from core.ledger.requests import ask, wait_for_answer
from core.ledger.writer import Ledger, OnChange
from core.matrix import Overrides
from orchestrator.requests import answer_all, decide, execute, queue_body
from tests.orchestrator.test_end_to_end import MATRIX, rows

# What migration 0003 made, unmade.
WITHOUT_0003 = """
DROP TABLE bundle; DROP INDEX job_of_code; DROP TRIGGER visit_fixed;
ALTER TABLE visit DROP COLUMN bundle; ALTER TABLE series DROP COLUMN revisions;
CREATE TRIGGER visit_fixed BEFORE UPDATE OF id ON visit BEGIN SELECT RAISE(ABORT, 'fixed'); END;
UPDATE alembic_version SET version_num = '0002';
"""
BODY = queue_body(MATRIX, "chaos.toml", Overrides(axes={}, exclude=(), sets=()), OnChange.REFUSE)


@pytest.mark.parametrize("verb", ["cancel", "retry", "pause", "resume"])
def test_steering_without_a_ledger_makes_none(tmp_path: Path, verb: str) -> None:
    with pytest.raises(LedgerError, match="no ledger at"):
        decide(tmp_path / "none.db", verb, {"experiment": "chaos", "where": {}, "why": ""})
    assert list(tmp_path.iterdir()) == []


def test_queueing_makes_a_ledger_and_says_what_is_to_do(tmp_path: Path) -> None:
    said = decide(tmp_path / "new.db", "queue", BODY)
    assert said.endswith("chaos: 4 cells, 4 jobs, 2 groups; series 1: 4 blocks to measure")
    assert "4 blocks to measure" in decide(tmp_path / "new.db", "queue", BODY)
    assert rows(tmp_path / "new.db", "SELECT count(*) FROM block") == [(4,)]


def test_steering_an_unknown_experiment_names_the_nearest(tmp_path: Path) -> None:
    decide(tmp_path / "l.db", "queue", BODY)
    with pytest.raises(UnknownExperiment, match="chaos") as refused:
        decide(tmp_path / "l.db", "pause", {"experiment": "choas", "why": "lunch"})
    assert refused.value.exit_code == 5


@pytest.mark.parametrize("verb", ["pause", "retry", "cancel", "resume"])
def test_steering_takes_the_beginning_of_an_experiment(tmp_path: Path, verb: str) -> None:
    decide(tmp_path / "l.db", "queue", BODY)
    decide(tmp_path / "l.db", "queue", BODY | {"text": MATRIX.replace('"chaos"', '"chess"')})
    assert decide(tmp_path / "l.db", verb, {"experiment": "cha", "where": {}, "why": "lunch"}).startswith("chaos")
    with pytest.raises(Ambiguous, match="chaos, chess"):
        decide(tmp_path / "l.db", verb, {"experiment": "ch", "where": {}, "why": "lunch"})


def test_steering_a_ledger_of_an_older_version_brings_it_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    decide(path, "queue", BODY)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(WITHOUT_0003)
    with pytest.raises(LedgerError, match="older schema"), open_reader(path):
        pass
    assert "is paused: lunch" in decide(path, "pause", {"experiment": "chaos", "why": "lunch"})
    with open_reader(path) as db:
        assert db.execute("SELECT paused FROM experiment").fetchone()[0] == "lunch"


def test_what_was_asked_before_is_executed_first(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    decide(path, "queue", BODY)
    asked = ask(path, "pause", {"experiment": "chaos", "why": "asked while nobody decided"}, "ann")
    decide(path, "resume", {"experiment": "chaos"})
    assert "paused" in (wait_for_answer(path, asked, 0) or "")
    assert rows(path, "SELECT paused FROM experiment") == [(None,)]


def test_a_refused_request_is_answered_with_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    decide(path, "queue", BODY)
    asked = [ask(path, "cancel", {"experiment": "nope", "where": {}}, "ann"), ask(path, "fly", {}, "ann")]
    with Ledger.open(path) as ledger:
        answer_all(ledger)
        with pytest.raises(HillclimbError, match="unknown"):
            execute(ledger, "fly", {})
    answers = [wait_for_answer(path, request, 0) or "" for request in asked]
    assert [a.partition(":")[0] for a in answers] == ["refused (5)", "refused (2)"]
