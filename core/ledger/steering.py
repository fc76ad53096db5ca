"""What a person asks of an experiment: pause, resume, cancel, retry. Each answers with a sentence.

`where` names cells by their printed coordinates ({"topk": "8"}); without it all are meant. Only the newest series is.
"""

import difflib
import json
from collections.abc import Mapping
from typing import NamedTuple

from core.ledger.blocks import close_blocks, drop_pairs, open_blocks
from core.ledger.coverage import Pair, cancelled, fill
from core.ledger.errors import UnknownExperiment
from core.ledger.memory import standing
from core.ledger.transaction import Transaction
from core.lifecycle import Arm
from core.matrix import Measure


def pause(tx: Transaction, experiment: str, reason: str) -> str:
    """No new visit is assigned; what runs goes on. Raises UnknownExperiment."""
    _newest_series(tx, experiment)
    tx.change("UPDATE experiment SET paused = :why WHERE id = :e", why=reason, e=experiment)
    tx.note("paused", f"{experiment}: {reason}")
    return f"{experiment} is paused: {reason}; `hillclimb resume {experiment}` goes on"


def resume(tx: Transaction, experiment: str) -> str:
    """Raises UnknownExperiment."""
    _newest_series(tx, experiment)
    if not tx.change("UPDATE experiment SET paused = NULL WHERE id = :e AND paused IS NOT NULL", e=experiment):
        return f"{experiment} is not paused"
    tx.note("resumed", experiment)
    return f"{experiment} goes on"


def cancel(tx: Transaction, experiment: str, where: Mapping[str, str]) -> str:
    """Closes the open blocks; with `where`, those measured for the matching cells, and what else they held is measured
    in blocks of its own. What is under way of them is stopped. Raises UnknownExperiment."""
    series = _newest_series(tx, experiment)
    why = "cancelled: a person asked for it"
    if where:
        chosen = _jobs(tx, series, experiment, where)
        closed = drop_pairs(tx, series, lambda job, _: job in chosen, f"{why}, where {_print(where)}")
    else:
        closed = close_blocks(tx, [block.id for block in open_blocks(tx, series)], why)
    if closed == 0:
        return f"{experiment}: nothing to cancel: no open block is measured for {_print(where) if where else 'it'}"
    tx.note("cancelled", f"{experiment}: {closed} blocks")
    return (
        f"{experiment}: {closed} blocks are cancelled, what was measured stands; "
        f"`hillclimb retry {experiment}` measures them after all"
    )


def retry(tx: Transaction, experiment: str, where: Mapping[str, str]) -> str:
    """What failed for good is forgiven, what was cancelled is wanted again: both get the blocks they lack. A paused
    experiment goes on. Raises UnknownExperiment."""
    series = _newest_series(tx, experiment)
    failed = standing(tx, series).history.failed
    stopped = cancelled(tx, series)
    chosen = _jobs(tx, series, experiment, where) if where else failed.union(*stopped)
    forgiven = failed & chosen
    for job in sorted(forgiven):
        tx.change(
            "INSERT INTO forgiven (series, job, visit) VALUES (:s, :j, (SELECT COALESCE(MAX(id), 0) FROM visit)) "
            "ON CONFLICT DO UPDATE SET visit = excluded.visit",
            s=series,
            j=job,
        )
    skip = {pair for pair in _named(tx, series) if set(pair) & (failed - forgiven)} | {
        p for p in stopped if p[0] not in chosen
    }
    blocks = Measure.model_validate_json(tx.one("SELECT measure FROM series WHERE id = :s", s=series).measure).blocks
    made = fill(tx, series, _groups(tx, series), blocks, skip)
    resumed = tx.change("UPDATE experiment SET paused = NULL WHERE id = :e AND paused IS NOT NULL", e=experiment)
    if forgiven:
        tx.change("DELETE FROM alarm WHERE series = :s", s=series)
    if not (forgiven or made or resumed):
        return f"{experiment}: nothing to retry: no job failed for good or was cancelled"
    tx.note("retried", f"{experiment}: {len(forgiven)} jobs forgiven, {made} blocks made")
    goes_on = ", and it is no longer paused" if resumed else ""
    return f"{experiment}: {len(forgiven)} failed jobs are forgiven, {made} blocks more are to be measured{goes_on}"


class _Row(NamedTuple):
    coordinates: Mapping[str, str]
    grp: str | None
    job: str
    reference: str


def _newest_series(tx: Transaction, experiment: str) -> int:
    row = tx.first("SELECT id FROM series WHERE experiment = :e ORDER BY ordinal DESC LIMIT 1", e=experiment)
    if row is not None:
        return int(row.id)
    known = [row.id for row in tx.all("SELECT id FROM experiment ORDER BY id")]
    near = difflib.get_close_matches(experiment, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`hillclimb ls` lists them"
    raise UnknownExperiment(f"no experiment {experiment!r}: {hint}")


def _cells(tx: Transaction, series: int) -> list[_Row]:
    """The cells that the matrix names now and that have a job."""
    rows = tx.all(
        "SELECT coordinates, grp, job, COALESCE(reference, job) AS reference FROM cell "
        "WHERE series = :s AND job IS NOT NULL AND retired IS NULL ORDER BY ordinal",
        s=series,
    )
    return [_Row(json.loads(row.coordinates), row.grp, row.job, row.reference) for row in rows]


def _named(tx: Transaction, series: int) -> set[Pair]:
    return {(cell.job, cell.reference) for cell in _cells(tx, series)}


def _jobs(tx: Transaction, series: int, experiment: str, where: Mapping[str, str]) -> frozenset[str]:
    """The jobs of the cells that match all of `where`. Raises UnknownExperiment."""
    cells = _cells(tx, series)
    chosen = frozenset(c.job for c in cells if all(c.coordinates.get(k) == v for k, v in where.items()))
    if not chosen:
        keys = sorted({key for cell in cells for key in cell.coordinates})
        raise UnknownExperiment(
            f"{experiment} has no cell where {_print(where)}: its coordinates are {', '.join(keys)}, and "
            f"`hillclimb ls {experiment}` lists their values"
        )
    return chosen


def _groups(tx: Transaction, series: int) -> list[tuple[str, tuple[Arm, ...]]]:
    """The groups as the cells tell them: references first, then the rest."""
    members: dict[str, dict[str, str]] = {}
    for cell in _cells(tx, series):
        if cell.grp is not None:
            members.setdefault(cell.grp, {})[cell.job] = cell.reference
    groups = []
    for label, reference_of in members.items():
        references = [job for job, reference in reference_of.items() if reference == job]
        jobs = references + [job for job, reference in reference_of.items() if reference != job]
        index = {job: slot for slot, job in enumerate(jobs)}
        groups.append((label, tuple(Arm(index[job], job, index[reference_of[job]]) for job in jobs)))
    return groups


def _print(where: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in where.items())
