"""Visits as rows before their end: leased to a host, given up as lost, taken back; and what a host executes.

A visit's id only grows: the database hands it out. At most one visit is open per block and per host: the database
refuses another.
"""

import json
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError

from core.failures import Kind
from core.job import parse_job
from core.ledger.blocks import parse_slots
from core.ledger.errors import Refused
from core.ledger.tables import Run
from core.ledger.tables import Visit as VisitRow
from core.ledger.transaction import Transaction
from core.lifecycle import VisitState
from core.matrix import Measure
from core.visit import BundleRef, Deadlines, Role, Slot, Target, Visit


def lease(tx: Transaction, block: int, host: str, order: Sequence[int], bundle: str) -> int:
    """Opens a visit and its runs; its id. Raises Refused when the block is not open, or when it or the host has one.

    `bundle`: what its working tree is sent as, or "".
    """
    row = tx.first("SELECT slots FROM block WHERE id = :b AND accepted_visit IS NULL AND closed IS NULL", b=block)
    if row is None:
        raise Refused(f"block {block} is not open: it cannot be leased to {host}")
    arms = parse_slots(row.slots)
    if not order or len(set(order)) != len(order) or not set(order) <= set(range(len(arms))):
        raise Refused(f"block {block} has slots 0 to {len(arms) - 1}: {list(order)} is no order of some of them")
    try:
        visit = tx.add(
            VisitRow(
                block=block,
                host=host,
                epoch=tx.epoch,
                state=VisitState.LEASED,
                slot_order=json.dumps(list(order)),
                leased_at_ns=tx.now_ns,
                bundle=bundle,
            )
        )
    except IntegrityError as error:
        raise Refused(f"block {block} cannot be leased to {host}: {error.orig}") from error
    tx.add_all(Run(visit=visit, slot=slot, job=arms[slot].job, role=Role.ARM) for slot in order)
    return visit


def describe(tx: Transaction, visit: int, target: Target, code: str, deadlines: Deadlines) -> Visit:
    """What a host needs to execute a visit, its slots in the leased order.

    It names the working tree it was leased with: whoever delivers it may have edited theirs since.
    """
    row = tx.one(
        "SELECT v.slot_order, s.measure, t.id AS tree, t.code AS tree_code FROM visit v JOIN block b ON b.id = v.block "
        "JOIN series s ON s.id = b.series LEFT JOIN bundle t ON t.id = v.bundle WHERE v.id = :v",
        v=visit,
    )
    specs = {
        run.slot: Slot(slot=run.slot, job=parse_job(json.loads(run.spec)), role=Role(run.role))
        for run in tx.all(
            "SELECT r.slot, r.role, j.spec FROM run r JOIN job j ON j.id = r.job WHERE r.visit = :v", v=visit
        )
    }
    measure = Measure.model_validate_json(row.measure)
    return Visit(
        visit=visit,
        slots=tuple(specs[slot] for slot in json.loads(row.slot_order)),
        iters=measure.iters,
        warmup=measure.warmup,
        target=target,
        deadlines=deadlines,
        code=code,
        bundles={} if row.tree is None else {"": BundleRef(id=row.tree, code=row.tree_code)},
    )


def lose(tx: Transaction, visit: int, kind: Kind, reason: str) -> bool:
    """A suspicion: its block goes elsewhere, its host may yet prove alive. False when the visit was not open."""
    lost = tx.change(
        "UPDATE visit SET state = 'lost', kind = :kind, reason = :reason "
        "WHERE id = :v AND state IN ('leased', 'running')",
        v=visit,
        kind=kind,
        reason=reason,
    )
    if lost:
        tx.change("UPDATE block SET front = front + 1 WHERE id = (SELECT block FROM visit WHERE id = :v)", v=visit)
        tx.note("lost", f"{kind}: {reason}", _host_of(tx, visit), visit)
    return bool(lost)


def take_back(tx: Transaction, visit: int) -> bool:
    """A lost visit is alive: it runs on, while its block is open and neither block nor host have another."""
    back = tx.change(
        "UPDATE visit SET state = 'running', kind = NULL, reason = '' "
        "WHERE id = :v AND state = 'lost' AND ended_at_ns IS NULL "
        "AND EXISTS (SELECT 1 FROM block b WHERE b.id = visit.block AND b.accepted_visit IS NULL AND b.closed IS NULL) "
        "AND NOT EXISTS (SELECT 1 FROM visit o WHERE o.state IN ('leased', 'running') "
        "AND (o.block = visit.block OR o.host = visit.host))",
        v=visit,
    )
    if back:
        tx.note("taken back", "it is alive, and nobody else has its block", _host_of(tx, visit), visit)
    return bool(back)


def new_spool(tx: Transaction, host: str, spool_id: str) -> tuple[int, ...]:
    """Registers the spool that a host writes now; the visits lost with the one before it.

    Nobody can say any more what happened in them: they end as lost, and their runs are closed.
    """
    before = spool_of(tx, host)
    if before == spool_id:
        return ()
    tx.change(
        "INSERT INTO spool (id, host, acked_seq, turn) VALUES (:id, :host, 0, 0) ON CONFLICT DO NOTHING",
        id=spool_id,
        host=host,
    )
    tx.change(
        "UPDATE spool SET turn = (SELECT MAX(turn) + 1 FROM spool) WHERE id = :id AND host = :host",
        id=spool_id,
        host=host,
    )
    if before is None:
        return ()
    reason = f"{host} has a new spool: what it had said is gone"
    tx.note("spool lost", f"{before} is gone, {spool_id} is there", host)
    gone = tx.all("SELECT id, state FROM visit WHERE host = :h AND state IN ('leased', 'running', 'lost')", h=host)
    lost = tuple(row.id for row in gone if lose(tx, row.id, Kind.WORKER_LOST, reason))
    tx.change(
        "UPDATE run SET outcome = 'stopped', reason = :reason WHERE outcome IS NULL AND visit IN "
        "(SELECT id FROM visit WHERE host = :h)",
        h=host,
        reason=reason,
    )
    tx.change(
        "UPDATE visit SET ended_at_ns = :now, ended_epoch = :epoch "
        "WHERE host = :h AND state = 'lost' AND ended_at_ns IS NULL",
        h=host,
        now=tx.now_ns,
        epoch=tx.epoch,
    )
    return lost


def spool_of(tx: Transaction, host: str) -> str | None:
    """The spool a host was last known to write."""
    row = tx.first("SELECT id FROM spool WHERE host = :h ORDER BY turn DESC LIMIT 1", h=host)
    return None if row is None else str(row.id)


def _host_of(tx: Transaction, visit: int) -> str:
    return str(tx.one("SELECT host FROM visit WHERE id = :v", v=visit).host)
