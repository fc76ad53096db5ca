"""Which runs count: those that ended ok, as an arm, in the accepted visit of their block.

Results of closed blocks, of superseded and of other visits stay in the ledger and are not counted.
"""

from collections.abc import Iterator
from typing import NamedTuple

from core.ledger.rows import Block, Record, Run, Visit
from core.lifecycle import Outcome

ARM = "arm"


class Counted(NamedTuple):
    """A run that counts. `partner`: its reference's run, when that counts too; None for a reference."""

    block: Block
    visit: Visit
    run: Run
    partner: Run | None


def counted(record: Record) -> Iterator[Counted]:
    """In the order of the blocks, then of their slots."""
    by_place = {(run.visit, run.slot): run for run in record.runs}
    for block in record.blocks:
        if block.accepted_visit is None:
            continue
        visit = record.visits[block.accepted_visit]
        for index, slot in enumerate(block.slots):
            run = by_place.get((visit.id, index))
            if slot.role != ARM or run is None or run.outcome != Outcome.OK:
                continue
            partner = by_place.get((visit.id, slot.reference)) if slot.reference != index else None
            yield Counted(block, visit, run, partner if partner is not None and partner.outcome == Outcome.OK else None)
