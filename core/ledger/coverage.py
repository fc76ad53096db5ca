"""How many blocks each pair of a series has: done, under way or waiting. What lacks some gets more.

A pair is (job, job of its reference); a reference is paired with itself. A pair has a block when one is open for it, or
accepted with good runs of both. Closed blocks, and accepted ones that only passed it on to a make-up, do not count.
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from core.ledger.blocks import Place, close_blocks, make_block, open_blocks, parse_slots, subset
from core.ledger.transaction import Transaction
from core.lifecycle import Arm, compared

Pair = tuple[str, str]


def coverage(tx: Transaction, series: int) -> Counter[Pair]:
    covered: Counter[Pair] = Counter()
    leased = in_flight(tx, series)
    for block in open_blocks(tx, series):
        slots = leased.get(block.id)
        covered.update(_pairs(parse_slots(block.slots), slots))
    good = tx.all(
        "SELECT b.id, b.slots, r.slot FROM block b JOIN run r ON r.visit = b.accepted_visit "
        "WHERE b.series = :s AND r.outcome IN ('ok', 'checked', 'unsupported') ORDER BY b.id",
        s=series,
    )
    for (_, text), rows in groupby(good, key=lambda row: (row.id, row.slots)):
        covered.update(_pairs(parse_slots(text), {row.slot for row in rows}))
    return covered


def in_flight(tx: Transaction, series: int) -> dict[int, set[int]]:
    """Open blocks that are being measured now -> the slots that are."""
    rows = tx.all(
        "SELECT b.id, v.slot_order FROM block b JOIN visit v ON v.block = b.id "
        "WHERE b.series = :s AND v.state IN ('leased', 'running')",
        s=series,
    )
    return {row.id: set(json.loads(row.slot_order)) for row in rows}


def cancelled(tx: Transaction, series: int) -> set[Pair]:
    """The pairs whose newest block a person cancelled: they stay so until `retry`."""
    newest: dict[Pair, bool] = {}
    for row in tx.all("SELECT slots, closed FROM block WHERE series = :s ORDER BY id", s=series):
        arms = parse_slots(row.slots)
        for arm in compared(arms):
            newest[arm.job, arms[arm.reference].job] = (row.closed or "").startswith("cancelled")
    return {pair for pair, is_cancelled in newest.items() if is_cancelled}


def fill(
    tx: Transaction, series: int, groups: Sequence[tuple[str, Sequence[Arm]]], blocks: int, skip: set[Pair]
) -> int:
    """Makes the blocks that the groups (label, arms) lack of `blocks` each; how many. Every group's first comes before
    any second. `skip`: pairs that get none of their own.
    """
    covered = coverage(tx, series)
    known = {row.grp for row in tx.all("SELECT DISTINCT grp FROM block WHERE series = :s", s=series)}
    made = 0
    for k in range(blocks):
        for label, arms in groups:
            pairs = {arm.slot: (arm.job, arms[arm.reference].job) for arm in compared(arms)}
            lacking = {slot for slot, pair in pairs.items() if pair not in skip and blocks - covered[pair] > k}
            if lacking:
                make_block(tx, Place(series, label, "extension" if label in known else "first"), subset(arms, lacking))
                made += 1
    return made


def trim(tx: Transaction, series: int, blocks: int, skip: set[Pair]) -> int:
    """Closes the last waiting blocks that no pair needs to have `blocks`; how many. `skip`: pairs that need none."""
    covered = coverage(tx, series)
    leased = in_flight(tx, series)
    spare: list[int] = []
    for block in reversed(open_blocks(tx, series)):
        arms = parse_slots(block.slots)
        pairs = {(arm.job, arms[arm.reference].job) for arm in compared(arms)} - skip
        if block.id not in leased and all(covered[pair] > blocks for pair in pairs):
            covered.subtract(_pairs(arms, None))
            spare.append(block.id)
    return close_blocks(tx, spare, f"dropped: [measure] blocks is {blocks} now")


def _pairs(arms: Sequence[Arm], slots: set[int] | None) -> list[Pair]:
    """The pairs of which both are in `slots`; all when that is None."""
    return [(arm.job, arms[arm.reference].job) for arm in arms if slots is None or {arm.slot, arm.reference} <= slots]
