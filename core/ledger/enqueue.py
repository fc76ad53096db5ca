"""Queueing a matrix: what it names and the ledger lacks is added, what it no longer names is retired.

Queueing the same matrix again adds nothing. What failed for good, or was cancelled, stays so until `retry`.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from core.ledger.blocks import close_blocks, drop_pairs, open_blocks
from core.ledger.cells import RETIRED, write_cells
from core.ledger.coverage import cancelled, fill, trim
from core.ledger.errors import SeriesChanged
from core.ledger.lock import user_name
from core.ledger.memory import standing
from core.ledger.tables import Experiment, Series
from core.ledger.transaction import Transaction
from core.lifecycle import Arm
from core.matrix import Expansion, Group, Measure


class OnChange(StrEnum):
    """What to do when the code or [measure] is not what the experiment was measured with before."""

    REFUSE = "refuse"
    AGAIN = "again"
    SAME_SERIES = "same-series"


class Enqueued(NamedTuple):
    """What the ledger holds of a matrix now. `series`: row id; `sentences`: what a person should know."""

    series: int
    ordinal: int
    cells: int
    jobs: int
    blocks_new: int
    blocks_done: int
    blocks_open: int
    retired: int
    sentences: tuple[str, ...]


def enqueue(tx: Transaction, expansion: Expansion, code: str, on_change: OnChange) -> Enqueued:
    """Raises SeriesChanged."""
    name = expansion.experiment
    sentences: list[str] = []
    _write_experiment(tx, expansion)
    series, ordinal = _series(tx, expansion, code, on_change, sentences)
    for job in expansion.jobs:
        tx.change(
            "INSERT INTO job (id, kind, spec) VALUES (:id, :kind, :spec) ON CONFLICT DO NOTHING",
            id=job.id,
            kind=job.kind,
            spec=job.model_dump_json(),
        )
    retired = write_cells(tx, series, expansion)
    groups = [(group.label, _arms(group)) for group in expansion.groups]
    named = {(arm.job, arms[arm.reference].job) for _, arms in groups for arm in arms}
    drop_pairs(tx, series, lambda *pair: pair not in named, f"dropped: {RETIRED}")
    lost = standing(tx, series).history.failed
    failed = {pair for pair in named if lost.intersection(pair)}
    stopped = named & cancelled(tx, series)
    trim(tx, series, expansion.measure.blocks, failed | stopped)
    made = fill(tx, series, groups, expansion.measure.blocks, failed | stopped)

    count = tx.one(
        "SELECT COUNT(accepted_visit) AS done, COALESCE(SUM(accepted_visit IS NULL AND closed IS NULL), 0) AS waiting "
        "FROM block WHERE series = :s",
        s=series,
    )
    if retired:
        sentences.append(f"{name}: {retired} cells are no longer named: they are retired and keep their runs")
    if made == 0:
        sentences.append(
            f"{name}: nothing new: {count.done} blocks are measured, {count.waiting} are still to be measured"
        )
    if failed:
        sentences.append(
            f"{name}: {len(failed)} jobs cannot be measured, they or their reference failed: `hillclimb retry {name}`"
        )
    if stopped:
        sentences.append(
            f"{name}: {len(stopped)} jobs were cancelled: `hillclimb retry {name}` measures them after all"
        )
    paused = tx.one("SELECT paused FROM experiment WHERE id = :e", e=name).paused
    if paused:
        sentences.append(f"{name} is paused ({paused}): `hillclimb resume {name}` goes on")
    return Enqueued(
        series=series,
        ordinal=ordinal,
        cells=len(expansion.cells),
        jobs=len(expansion.jobs),
        blocks_new=made,
        blocks_done=count.done,
        blocks_open=count.waiting,
        retired=retired,
        sentences=tuple(sentences),
    )


def _arms(group: Group) -> tuple[Arm, ...]:
    return tuple(Arm(slot, job.id, group.reference_of[slot]) for slot, job in enumerate(group.jobs))


def _write_experiment(tx: Transaction, expansion: Expansion) -> None:
    changed = tx.change(
        "UPDATE experiment SET goal = :goal, priority = :priority WHERE id = :id",
        id=expansion.experiment,
        goal=expansion.goal,
        priority=expansion.priority,
    )
    if not changed:
        tx.add(
            Experiment(
                id=expansion.experiment,
                goal=expansion.goal,
                priority=expansion.priority,
                queued_by=user_name(),
                queued_at_ns=tx.now_ns,
            )
        )


def _series(
    tx: Transaction, expansion: Expansion, code: str, on_change: OnChange, sentences: list[str]
) -> tuple[int, int]:
    """The series to measure in, and its ordinal: the newest, or the next when what it is measured with has changed."""
    name = expansion.experiment
    last = tx.first("SELECT * FROM series WHERE experiment = :e ORDER BY ordinal DESC LIMIT 1", e=name)
    if last is None:
        return _new_series(tx, expansion, code, 1), 1
    sentences += _moved(json.loads(last.revisions), expansion.revisions)
    changes = _changes(last.measure, last.code, expansion.measure, code)
    if not changes:
        _rewrite_series(tx, last.id, expansion, code)
        return last.id, last.ordinal
    what = f"{name}: {' and '.join(changes)} since series {last.ordinal}"
    match on_change:
        case OnChange.REFUSE:
            raise SeriesChanged(
                f"{what}: `--again` measures it anew as series {last.ordinal + 1}, "
                f"`--same-series` goes on in series {last.ordinal} and lets the environment rows tell"
            )
        case OnChange.SAME_SERIES:
            _rewrite_series(tx, last.id, expansion, code)
            tx.note("same series", what)
            sentences.append(f"{what}: going on in series {last.ordinal}, as asked")
            return last.id, last.ordinal
        case OnChange.AGAIN:
            waiting = [block.id for block in open_blocks(tx, last.id)]
            close_blocks(tx, waiting, f"dropped: series {last.ordinal + 1} was begun")
            sentences.append(f"{what}: measuring it anew as series {last.ordinal + 1}, as asked")
            return _new_series(tx, expansion, code, last.ordinal + 1), last.ordinal + 1


def _changes(old_measure: str, old_code: str, measure: Measure, code: str) -> list[str]:
    """What no longer fits, in words. More or fewer blocks are no change of how each is measured."""
    before = Measure.model_validate_json(old_measure)
    changes = [
        f"[measure] {key} changed from {getattr(before, key)} to {getattr(measure, key)}"
        for key in Measure.model_fields
        if key != "blocks" and getattr(before, key) != getattr(measure, key)
    ]
    if old_code != code:
        changes.append(f"the code changed ({old_code[:12]} to {code[:12]})")
    return changes


def _moved(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A name that stands for another commit than it did stands for other jobs."""
    moved = [name for name in now if before.get(name, now[name]) != now[name]]
    return [f"code = {name} was commit {before[name][:12]} and is {now[name][:12]} now: other jobs" for name in moved]


def _new_series(tx: Transaction, expansion: Expansion, code: str, ordinal: int) -> int:
    return tx.add(
        Series(experiment=expansion.experiment, ordinal=ordinal, queued_at_ns=tx.now_ns, **_documents(expansion, code))
    )


def _rewrite_series(tx: Transaction, series: int, expansion: Expansion, code: str) -> None:
    tx.change(
        "UPDATE series SET text = :text, overrides = :overrides, measure = :measure, interleaved = :interleaved, "
        "baseline = :baseline, code = :code, revisions = :revisions WHERE id = :series",
        series=series,
        **_documents(expansion, code),
    )


def _documents(expansion: Expansion, code: str) -> dict[str, Any]:
    return {
        "text": expansion.text,
        "overrides": expansion.overrides.model_dump_json(),
        "measure": expansion.measure.model_dump_json(),
        "interleaved": json.dumps(expansion.interleaved),
        "baseline": json.dumps(expansion.baseline, default=str),
        "code": code,
        "revisions": json.dumps(expansion.revisions),
    }
