"""A series' cells as rows: those that the matrix names now in its order, then those that it once named.

A cell is known by its coordinates and its job: other values for a job are another cell.
"""

import json
from collections import Counter

from core.ledger.tables import Cell
from core.ledger.transaction import Transaction
from core.matrix import Expansion

RETIRED = "the matrix no longer names it"


def write_cells(tx: Transaction, series: int, expansion: Expansion) -> int:
    """Makes the rows say what the matrix says; how many cells it names no longer."""
    old = [Cell(**row._asdict()) for row in tx.all("SELECT * FROM cell WHERE series = :s ORDER BY ordinal", s=series)]
    new = _named(series, expansion)
    named = Counter(map(_key, new))
    retired = 0
    for cell in old:
        if named[_key(cell)]:
            named[_key(cell)] -= 1
            continue
        retired += cell.retired is None
        new.append(Cell(**cell.model_dump() | {"ordinal": len(new), "retired": RETIRED}))
    if new != old:
        tx.change("DELETE FROM cell WHERE series = :s", s=series)
        tx.add_all(new)
    return retired


def _named(series: int, expansion: Expansion) -> list[Cell]:
    references: dict[tuple[int, str], str] = {}
    labels: dict[int, str] = {}
    for group in expansion.groups:
        labels[group.ordinal] = group.label
        for job, reference in zip(group.jobs, group.reference_of, strict=True):
            references[group.ordinal, job.id] = group.jobs[reference].id
    return [
        Cell(
            series=series,
            ordinal=ordinal,
            coordinates=json.dumps(cell.coordinates),
            grp=None if cell.group is None else labels[cell.group],
            job=cell.job.id if cell.job else None,
            reference=references.get((cell.group, cell.job.id)) if cell.job and cell.group is not None else None,
            why=cell.why,
        )
        for ordinal, cell in enumerate(expansion.cells)
    ]


def _key(cell: Cell) -> tuple[frozenset[tuple[str, str]], str | None]:
    return frozenset(json.loads(cell.coordinates).items()), cell.job
