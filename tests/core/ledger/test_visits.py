"""Leases, losses, take-backs and spools; and what the snapshot shows of them."""

import sqlite3

import pytest

from core.events import Probed, VisitEnded
from core.failures import Kind
from core.ledger.errors import Refused
from core.ledger.survey import _CODES
from core.lifecycle import VisitState
from core.matrix import expand
from core.visit import Platform, Role, Target
from tests.core.ledger.conftest import Lab, matrix, runs

PROBED = Probed(clean=True, free_disk_bytes=1)


def test_lease_opens_a_visit_and_its_runs(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1", order=(2, 0))
    assert lab.rows("SELECT state, host, epoch, slot_order FROM visit") == [("leased", "h1", 1, "[2, 0]")]
    assert lab.rows("SELECT slot, outcome FROM run ORDER BY slot") == [(0, None), (2, None)]
    (seen,) = lab.ledger.snapshot().visits
    assert (seen.id, seen.host, seen.state, seen.experiment) == (visit, "h1", VisitState.LEASED, "seeds")


def test_visit_is_complete_and_in_the_leased_order(lab: Lab) -> None:
    lab.queue(matrix(iters=7))
    target = Target(platform=Platform.CPU, devices=2)
    visit = lab.ledger.visit(lab.lease("h1", order=(1, 2, 0)), target, "code")
    assert [(s.slot, s.job.seed, s.role) for s in visit.slots] == [(1, 1, Role.ARM), (2, 2, Role.ARM), (0, 0, Role.ARM)]
    assert (visit.iters, visit.warmup, visit.target, visit.code) == (7, 2, target, "code")


def test_visit_ids_only_grow(lab: Lab) -> None:
    lab.queue(matrix(blocks=4))
    ids = []
    for _ in range(3):
        ids.append(lab.lease("h1"))
        lab.ledger.lose(ids[-1], Kind.HOST_LOST, "silent")
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("second", ["same block", "same host", "accepted block", "no block", "bad order"])
def test_lease_that_breaks_an_invariant_is_refused_and_changes_nothing(lab: Lab, second: str) -> None:
    lab.queue(matrix(blocks=3))
    blocks = [b.id for b in lab.blocks()]
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"}, blocks[0])
    lab.lease("h1", blocks[1])
    lab.host("h2")
    before = lab.rows("SELECT * FROM visit"), lab.rows("SELECT * FROM run")
    block, host, order = {
        "same block": (blocks[1], "h2", (0, 1)),
        "same host": (blocks[2], "h1", (0, 1)),
        "accepted block": (blocks[0], "h2", (0, 1)),
        "no block": (99, "h2", (0, 1)),
        "bad order": (blocks[2], "h2", (0, 3)),
    }[second]
    with pytest.raises(Refused, match=f"block {block} "):
        lab.ledger.lease(block, host, order)
    assert (lab.rows("SELECT * FROM visit"), lab.rows("SELECT * FROM run")) == before
    assert lab.ledger.lease(blocks[2], "h2", (0, 1)) == 3


def test_lost_visit_frees_its_block_and_puts_it_in_front(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[1].id
    visit = lab.lease("h1", block)
    assert lab.ledger.lose(visit, Kind.HOST_LOST, "silent for 20 s")
    assert not lab.ledger.lose(visit, Kind.HOST_LOST, "again")
    snapshot = lab.ledger.snapshot()
    assert snapshot.blocks[0].id == block
    assert [v.state for v in snapshot.visits] == [VisitState.LOST]
    assert lab.decisions() == ["lost"]
    assert lab.lease("h1", block) > visit


def test_lost_visit_is_taken_back_while_nobody_else_has_its_block(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.ledger.lose(visit, Kind.HOST_LOST, "silent")
    assert lab.ledger.take_back(visit)
    assert not lab.ledger.take_back(visit)
    assert lab.rows("SELECT state, kind, reason FROM visit") == [("running", None, "")]
    assert lab.end("h1", visit, {0: "ok", 1: "ok", 2: "ok"}).accepted
    assert not lab.ledger.take_back(visit)


@pytest.mark.parametrize("instead", ["block elsewhere", "host busy", "block closed", "block accepted"])
def test_lost_visit_is_not_taken_back_when_things_have_moved_on(lab: Lab, instead: str) -> None:
    lab.queue()
    first, second = (b.id for b in lab.blocks())
    visit = lab.lease("h1", first)
    lab.ledger.lose(visit, Kind.HOST_LOST, "silent")
    match instead:
        case "block elsewhere":
            lab.lease("h2", first)
        case "host busy":
            lab.lease("h1", second)
        case "block closed":
            lab.ledger.close_blocks([first], "dropped: a test")
        case "block accepted":
            lab.measure("h2", {0: "ok", 1: "ok", 2: "ok"}, first)
    assert not lab.ledger.take_back(visit)


def test_closing_a_block_cancels_its_visits_and_keeps_their_runs_open(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[0].id
    visit = lab.lease("h1", block)
    lab.say("h1", visit, *list(runs({0: "ok"})))
    assert lab.ledger.close_blocks([block, block], "poisoned: a test") == 1
    assert lab.rows("SELECT state, reason FROM visit") == [("cancelled", "poisoned: a test")]
    # what it says later is kept and not counted, and its end is expected
    assert lab.say("h1", visit, *list(runs({1: "ok"})), VisitEnded(state="cancelled")) == ()
    assert lab.rows("SELECT slot, outcome FROM run ORDER BY slot") == [(0, "ok"), (1, "ok"), (2, "stopped")]
    assert lab.rows("SELECT COUNT(*) FROM sample") == [(6,)]
    assert "stray" not in lab.decisions()
    assert lab.ledger.snapshot().visits == ()


def test_closing_a_block_cancels_a_lost_visit_of_it_for_good(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[0].id
    visit = lab.lease("h1", block)
    lab.ledger.lose(visit, Kind.HOST_LOST, "silent")
    lab.ledger.close_blocks([block], "cancelled: a test")
    assert lab.rows("SELECT state, kind FROM visit") == [("cancelled", "cancelled")]
    assert lab.say("h1", visit, *runs({0: "ok", 1: "ok", 2: "ok"}), VisitEnded(state="finished")) == ()
    assert lab.rows("SELECT accepted_visit FROM block WHERE id = ?", block) == [(None,)]


def test_closing_a_block_for_no_known_reason_is_refused_as_a_bug(lab: Lab) -> None:
    lab.queue()
    with pytest.raises(Refused, match="report it") as e:
        lab.ledger.close_blocks([1], "because")
    assert e.value.exit_code == 70
    assert len(lab.blocks()) == 2


def test_new_spool_loses_the_hosts_visits_for_good(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.say("h1", visit, *list(runs({0: "ok"})))
    other = lab.lease("h2", lab.blocks()[1].id)
    assert lab.new_spool("h1", "spool-h1") == ()
    assert lab.new_spool("h1", "spool-new") == (visit,)
    assert lab.new_spool("h1", "spool-new") == ()
    assert lab.ledger.spool_of("h1") == "spool-new" and lab.ledger.acked("spool-new") == 0
    assert lab.rows("SELECT slot, outcome FROM run WHERE visit = ?", visit) == [
        (0, "ok"),
        (1, "stopped"),
        (2, "stopped"),
    ]
    assert not lab.ledger.take_back(visit)
    assert [v.id for v in lab.ledger.snapshot().visits] == [other]
    assert lab.rows("SELECT state, kind FROM visit WHERE id = ?", visit) == [("lost", "worker_lost")]
    assert {"spool lost", "lost"} <= set(lab.decisions())


def test_first_spool_of_a_host_loses_nothing(lab: Lab) -> None:
    lab.queue()
    lab.ledger.see_host("h1", "h1", "cpu", 4)
    assert lab.ledger.spool_of("h1") is None and lab.ledger.acked("s") == 0
    visit = lab.ledger.lease(lab.blocks()[0].id, "h1", [0, 1, 2])
    assert lab.new_spool("h1", "s") == ()
    assert lab.end("h1", visit, {0: "ok", 1: "ok", 2: "ok"}).accepted


def test_spool_that_a_host_goes_back_to_goes_on_where_it_was(lab: Lab) -> None:
    lab.say(lab.host("h1"), None, *[PROBED] * 3)
    lab.new_spool("h1", "other")
    lab.new_spool("h1", "spool-h1")
    assert lab.ledger.spool_of("h1") == "spool-h1"
    lab.say("h1", None, PROBED)
    assert lab.ledger.acked("spool-h1") == 4


def test_snapshot_follows_what_runs_say(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    assert lab.ledger.snapshot().series[1].verdicts == ()
    lab.end("h1", visit, {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    assert lab.ledger.snapshot().series[1].verdicts == (None, Kind.NUMERICS, None)
    lab.ledger.retry("seeds", {})
    assert lab.ledger.snapshot().series[1].verdicts == (None, None)


def test_first_final_run_of_a_job_gives_its_verdict(lab: Lab) -> None:
    lab.queue()
    first, second = (b.id for b in lab.blocks())
    bad, good = lab.lease("h1", first), lab.lease("h2", second)
    lab.end("h1", bad, {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    lab.end("h2", good, {0: Kind.NUMERICS, 1: "ok", 2: "ok"})
    series = lab.ledger.snapshot().series[1]
    assert series.verdicts == (None, Kind.NUMERICS, None)
    assert len(series.failed) == 2 and len(series.measured) == 3


def test_block_knows_where_its_group_was_measured(lab: Lab) -> None:
    lab.queue(matrix(blocks=4))
    for host in ("h1", "h2", "h1"):
        lab.measure(host, {0: "ok", 1: "ok", 2: "ok"})
    assert dict(lab.blocks()[0].measured_by) == {"h1": 2, "h2": 1}


def test_host_seen_again_is_the_same_row(lab: Lab) -> None:
    lab.ledger.see_host("h1", "m1", "cpu", 4)
    lab.ledger.see_host("h1", "m2", "tpu", 8)
    assert lab.rows("SELECT name, machine, platform, devices FROM host") == [("h1", "m2", "tpu", 8)]


def test_visit_names_the_bundle_of_its_working_tree_for_good(lab: Lab) -> None:
    lab.queue()
    lab.ledger.see_bundle("b" * 64, "code", "0" * 40, "")
    lab.ledger.see_bundle("b" * 64, "code", "0" * 40, "")
    assert lab.rows("SELECT * FROM bundle") == [("b" * 64, "code", "0" * 40, "")]
    block = lab.blocks()[0]
    visit = lab.ledger.lease(block.id, lab.host("h1"), [0, 1, 2], "b" * 64)
    assert lab.rows("SELECT id, bundle FROM visit") == [(visit, "b" * 64)]
    with pytest.raises(sqlite3.IntegrityError, match="of a visit never change"):
        lab.ledger._driver.execute("UPDATE visit SET bundle = ''")


def test_snapshot_tells_which_jobs_of_a_block_run_a_commits_code(lab: Lab) -> None:
    text = matrix(blocks=1).replace("[axes]", '[axes]\ncode = ["main", "."]').replace("[measure]", "[measure]")
    lab.ledger.enqueue(expand(text, "seeds.toml", revisions={"main": "0" * 40}), "code")
    blocks = lab.blocks()
    assert [set(block.codes.values()) for block in blocks] == [{"0" * 40}, set()]
    assert blocks[0].codes.keys() == {arm.job for arm in blocks[0].arms}


def test_snapshot_asks_for_codes_through_their_index(lab: Lab) -> None:
    (plan,) = lab.rows(f"EXPLAIN QUERY PLAN {_CODES}")
    assert plan[-1] == "SCAN job USING INDEX job_of_code"
