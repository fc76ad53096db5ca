"""What a finished `run` prints: the answer, or the cells of an experiment that compares nothing."""

from pathlib import Path

from core.ledger.queries import NothingMatched
from core.ledger.reader import open_reader
from orchestrator.report import listing
from orchestrator.report.answer import answer
from orchestrator.report.render import Report


def outcome(path: Path, experiment: str) -> Report:
    """Raises LedgerError."""
    with open_reader(path) as db:
        try:
            return answer(db, experiment).report
        except NothingMatched:
            return {"cells": listing.cells(db, experiment, None)}
