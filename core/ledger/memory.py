"""What a series' ended visits say about its jobs: read from the rows, folded by `core.lifecycle`.

Visits count in the order they ended. What a job did up to the visit that `retry` forgave does not count.
"""

import json
from collections.abc import Collection
from functools import cache
from itertools import groupby
from typing import NamedTuple

from core.failures import Kind
from core.ledger.transaction import Transaction
from core.lifecycle import History, Judgement, Outcome, Result, failure, judge, remember

# (when its visit ended, its run), and how it failed
Verdict = tuple[tuple[int, int], Kind | None]


class Standing(NamedTuple):
    """`verdicts`: of distinct jobs in the order they first got a final run: None for a good one, else the kind it
    failed with. `measured`: the jobs with a good run."""

    history: History
    verdicts: tuple[Kind | None, ...]
    measured: frozenset[str]


# A lost visit ends when its host's spool does: until then it may still come back.
_COUNTED = """
FROM block b JOIN visit v ON v.block = b.id JOIN run r ON r.visit = v.id
LEFT JOIN forgiven f ON f.series = b.series AND f.job = r.job
WHERE b.series = :series AND v.ended_at_ns IS NOT NULL AND r.outcome IS NOT NULL AND v.id > COALESCE(f.visit, 0)
"""
# CROSS JOIN: from the few failed runs outwards, not through all runs of the series
_FAILED_JOBS = """
SELECT DISTINCT r.job FROM run r CROSS JOIN visit v ON v.id = r.visit CROSS JOIN block b ON b.id = v.block
WHERE r.outcome = 'failed' AND b.series = :series
"""
_RUNS_OF = f"""
SELECT v.id AS visit, v.host, v.ended_at_ns, r.id AS run, r.job, r.outcome, r.kind {_COUNTED}
AND r.job IN (SELECT value FROM json_each(:jobs)) ORDER BY v.ended_at_ns, v.id, r.id
"""
# SQLite takes the other columns from the row that has the minimum
_FIRST_GOOD = f"""
SELECT r.job, MIN(v.ended_at_ns) AS ended_at_ns, r.id AS run {_COUNTED}
AND r.outcome IN ('ok', 'checked', 'unsupported') GROUP BY r.job
"""


def standing(tx: Transaction, series: int) -> Standing:
    """Of all jobs of a series. Only of those that ever failed is more than the first good run looked at."""
    failed = {row.job for row in tx.all(_FAILED_JOBS, series=series)}
    history, failed_at = _fold(tx, series, failed)
    good = {row.job: (row.ended_at_ns, row.run) for row in tx.all(_FIRST_GOOD, series=series)}
    first: dict[str, Verdict] = {job: (when, None) for job, when in good.items()}
    for job, (when, kind) in failed_at.items():
        if job not in good or when < good[job]:
            first[job] = when, kind
    ordered = sorted(first.values(), key=lambda verdict: verdict[0])
    return Standing(history, tuple(kind for _, kind in ordered), frozenset(good))


def history_of(tx: Transaction, series: int, jobs: Collection[str]) -> History:
    """Of these jobs: what settling a visit of them needs. Costs little while none of them has failed."""
    failed = {row.job for row in tx.all(_FAILED_JOBS, series=series)}
    return _fold(tx, series, failed.intersection(jobs))[0]


@cache
def result(outcome: str, kind: str | None) -> Result:
    """A run's end, from its columns."""
    return Result(Outcome(outcome), Kind(kind) if kind else None)


def _fold(tx: Transaction, series: int, jobs: Collection[str]) -> tuple[History, dict[str, Verdict]]:
    """The history of these jobs; and for those that failed for good, when they first did (time, run) and how."""
    history = History()
    failed_at: dict[str, Verdict] = {}
    rows = tx.all(_RUNS_OF, series=series, jobs=json.dumps(list(jobs))) if jobs else ()
    for (_, host), visit in groupby(rows, key=lambda row: (row.visit, row.host)):
        runs = [(row, result(row.outcome, row.kind)) for row in visit]
        for row, end in runs:
            if judge(row.job, end, history) is Judgement.CONDEMNED:
                failed_at.setdefault(row.job, ((row.ended_at_ns, row.run), failure(end)))
        history = remember(history, host, [(row.job, end) for row, end in runs])
    return history, failed_at
