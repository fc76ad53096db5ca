"""Blocks as rows: their slots as a document, making them, and closing them.

A block's slots never change. Who wants fewer arms of an open block closes it and makes another of what remains.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from core.ledger.tables import Block
from core.ledger.transaction import Transaction
from core.lifecycle import Arm, compared
from core.visit import Role


class Place(NamedTuple):
    """Where a new block goes."""

    series: int
    grp: str
    origin: str
    front: int = 0
    avoid_host: str | None = None


@lru_cache(maxsize=4096)
def parse_slots(text: str) -> tuple[Arm, ...]:
    return tuple(Arm(slot, s["job"], s["reference"]) for slot, s in enumerate(json.loads(text)))


def print_slots(arms: Sequence[Arm]) -> str:
    return json.dumps([{"job": a.job, "role": Role.ARM.value, "reference": a.reference} for a in arms])


def subset(arms: Sequence[Arm], slots: Collection[int]) -> tuple[Arm, ...]:
    """The arms of these slots and of their references, numbered anew in their order, references still before arms."""
    chosen = {slot for arm in arms if arm.slot in slots for slot in (arm.slot, arm.reference)}
    kept = [arm for arm in arms if arm.slot in chosen]
    index = {arm.slot: i for i, arm in enumerate(kept)}
    return tuple(Arm(index[arm.slot], arm.job, index[arm.reference]) for arm in kept)


def make_block(tx: Transaction, place: Place, arms: Sequence[Arm]) -> int:
    """Inserts a block behind the others of its group; its id."""
    newest = tx.one("SELECT MAX(ordinal) FROM block WHERE series = :s AND grp = :g", s=place.series, g=place.grp)[0]
    return tx.add(
        Block(
            series=place.series,
            grp=place.grp,
            ordinal=0 if newest is None else newest + 1,
            slots=print_slots(arms),
            origin=place.origin,
            front=place.front,
            avoid_host=place.avoid_host,
        )
    )


def close_blocks(tx: Transaction, ids: Iterable[int], why: str) -> int:
    """Closes those that are open, and cancels what is under way of them; how many were closed.

    The runs of a cancelled visit stay open until its host says how it ended: what they say is kept and not counted.
    """
    closed = 0
    for block in ids:
        if not tx.change(
            "UPDATE block SET closed = :why WHERE id = :b AND accepted_visit IS NULL AND closed IS NULL",
            why=why,
            b=block,
        ):
            continue
        closed += 1
        tx.note("closed", f"block {block}: {why}")
        tx.change(
            "UPDATE visit SET state = 'cancelled', kind = 'cancelled', reason = :why, "
            "ended_at_ns = :now, ended_epoch = :epoch WHERE block = :b AND state IN ('leased', 'running', 'lost')",
            why=why,
            now=tx.now_ns,
            epoch=tx.epoch,
            b=block,
        )
    return closed


def drop_pairs(tx: Transaction, series: int, unwanted: Callable[[str, str], bool], why: str) -> int:
    """Closes the open blocks that compare a pair nobody wants, makes one of what remains of each; how many it closed.

    A pair is (job, job of its reference).
    """
    closed = 0
    for row in open_blocks(tx, series):
        arms = parse_slots(row.slots)
        wanted = compared(arms)
        remaining = {arm.slot for arm in wanted if not unwanted(arm.job, arms[arm.reference].job)}
        if len(remaining) == len(wanted):
            continue
        closed += close_blocks(tx, [row.id], why)
        if remaining:
            make_block(tx, Place(series, row.grp, "extension", row.front, row.avoid_host), subset(arms, remaining))
    return closed


class OpenRow(NamedTuple):
    id: int
    grp: str
    slots: str
    front: int
    avoid_host: str | None


def open_blocks(tx: Transaction, series: int) -> list[OpenRow]:
    """A series' open blocks in their order."""
    rows = tx.all(
        "SELECT id, grp, slots, front, avoid_host FROM block "
        "WHERE series = :s AND accepted_visit IS NULL AND closed IS NULL ORDER BY ordinal, id",
        s=series,
    )
    return [OpenRow(*row) for row in rows]
