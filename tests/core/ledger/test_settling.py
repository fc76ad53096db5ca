"""What an ended visit does to its block, through the public writer."""

import pytest

from core.events import VisitEnded
from core.failures import Kind
from core.lifecycle import Outcome, VisitState
from core.visit import Target
from tests.core.ledger.conftest import Lab, matrix, runs

CRASH, COMPILE, LOST = Kind.CRASH, Kind.COMPILE_ERROR, Kind.WORKER_LOST


def test_visit_all_ok_is_accepted_without_more(lab: Lab) -> None:
    lab.queue()
    ended = lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    assert (ended.state, ended.accepted, ended.make_up, ended.condemned) == (VisitState.FINISHED, True, None, {})
    assert [(r.slot, r.outcome, r.median_ns) for r in ended.runs] == [(s, Outcome.OK, 20) for s in range(3)]
    assert ended.wall_s > 0
    assert lab.rows("SELECT accepted_visit FROM block ORDER BY ordinal") == [(ended.visit,), (None,)]


def test_visit_with_a_job_fault_is_accepted_and_the_job_failed_for_good(lab: Lab) -> None:
    lab.queue()
    ended = lab.measure("h1", {0: "ok", 1: COMPILE, 2: "ok"})
    assert ended.accepted and ended.make_up is None
    job = lab.blocks()[0].arms[1].job
    assert ended.condemned == {job: COMPILE}
    series = lab.ledger.snapshot().series[1]
    assert series.failed == {job}
    assert series.verdicts == (None, COMPILE, None)
    assert job not in series.measured and len(series.measured) == 2


def test_arm_that_was_not_run_goes_with_its_reference_to_a_make_up_in_front(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    ended = lab.end("h1", visit, {0: "ok", 1: "ok"}, "failed", LOST)
    assert ended.accepted and ended.state is VisitState.FAILED
    assert [r.outcome for r in ended.runs] == [Outcome.OK, Outcome.OK, Outcome.STOPPED]
    first, second = lab.blocks()
    assert (first.id, first.origin, first.ordinal, first.avoid_host) == (ended.make_up, "make-up", 2, None)
    before = {a.slot: a.job for a in second.arms}
    assert [(a.slot, a.job, a.reference) for a in first.arms] == [(0, before[0], 0), (1, before[2], 0)]


def test_ambiguous_failure_is_tried_once_more_elsewhere_then_condemned(lab: Lab) -> None:
    lab.queue()
    first = lab.measure("h1", {0: "ok", 1: CRASH, 2: "ok"})
    assert first.accepted and not first.condemned
    assert lab.blocks()[0].avoid_host == "h1"
    second = lab.measure("h2", {0: "ok", 1: CRASH})
    assert second.block == first.make_up
    assert second.accepted and second.make_up is None
    assert list(second.condemned.values()) == [CRASH]


def test_ambiguous_failure_after_a_good_run_counts_anew(lab: Lab) -> None:
    lab.queue(matrix(blocks=3))
    lab.measure("h1", {0: "ok", 1: CRASH, 2: "ok"})
    lab.measure("h1", {0: "ok", 1: "ok"})
    third = lab.measure("h1", {0: "ok", 1: CRASH, 2: "ok"})
    assert not third.condemned and third.make_up is not None


def test_reference_not_final_leaves_the_block_open_in_front(lab: Lab) -> None:
    lab.queue()
    second = lab.blocks()[1].id
    ended = lab.measure("h1", {0: CRASH, 1: "ok", 2: "ok"}, second)
    assert not ended.accepted and ended.make_up is None
    first = lab.blocks()[0]
    assert (first.id, first.avoid_host) == (second, "h1")


def test_process_that_dies_before_any_slot_sends_its_block_elsewhere(lab: Lab) -> None:
    lab.queue()
    ended = lab.end("h1", lab.lease("h1"), {}, "failed", Kind.STALL)
    assert not ended.accepted
    assert lab.blocks()[0].avoid_host == "h1"


def test_infrastructure_failures_never_spend_a_jobs_budget(lab: Lab) -> None:
    lab.queue()
    for _ in range(5):
        ended = lab.measure("h1", {0: "ok", 1: LOST, 2: "ok"} if len(lab.blocks()) == 2 else {0: "ok", 1: LOST})
        assert ended.make_up is not None and not ended.condemned
    assert lab.ledger.snapshot().series[1].failed == frozenset()
    assert lab.measure("h1", {0: "ok", 1: "ok"}).make_up is None


def test_slots_left_out_of_the_lease_are_not_made_up_for(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: COMPILE, 2: "ok"})
    visit = lab.lease("h1", order=(2, 0))
    assert [s.slot for s in lab.ledger.visit(visit, Target(), "code").slots] == [2, 0]
    ended = lab.end("h1", visit, {2: "ok", 0: "ok"})
    assert ended.accepted and ended.make_up is None
    assert lab.blocks() == ()


def test_lost_visit_that_finishes_first_wins_and_the_other_is_superseded(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[0].id
    lost = lab.lease("h1", block)
    assert lab.ledger.lose(lost, Kind.HOST_LOST, "silent")
    other = lab.lease("h2", block)
    assert lab.end("h1", lost, {0: "ok", 1: "ok", 2: "ok"}).accepted
    late = lab.end("h2", other, {0: "ok", 1: "ok", 2: "ok"})
    assert (late.state, late.kind, late.accepted) == (VisitState.SUPERSEDED, Kind.SUPERSEDED, False)
    assert late.make_up is None
    assert lab.rows("SELECT accepted_visit FROM block WHERE id = ?", block) == [(lost,)]
    assert lab.rows("SELECT outcome FROM run WHERE visit = ?", other) == [("ok",)] * 3


def test_superseded_visit_still_tells_what_its_host_went_through(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[0].id
    lost = lab.lease("h1", block)
    lab.ledger.lose(lost, Kind.HOST_LOST, "silent")
    lab.end("h2", lab.lease("h2", block), {0: "ok", 1: "ok", 2: "ok"})
    assert lab.end("h1", lost, {}, "failed", Kind.TPU_BUSY).kind is Kind.TPU_BUSY
    assert lab.rows("SELECT kind FROM visit WHERE id = ?", lost) == [("superseded",)]


def test_lost_visit_cut_short_does_not_take_the_block_from_the_one_under_way(lab: Lab) -> None:
    lab.queue()
    block = lab.blocks()[0].id
    lost = lab.lease("h1", block)
    lab.ledger.lose(lost, Kind.HOST_LOST, "silent")
    other = lab.lease("h2", block)
    cut = lab.end("h1", lost, {0: "ok"}, "cancelled")
    assert (cut.state, cut.accepted) == (VisitState.CANCELLED, False)
    assert lab.end("h2", other, {0: "ok", 1: "ok", 2: "ok"}).accepted


def test_visit_stopped_by_its_controller_keeps_what_it_measured(lab: Lab) -> None:
    lab.queue()
    ended = lab.end("h1", lab.lease("h1"), {0: "ok", 1: "ok"}, "cancelled")
    assert (ended.state, ended.kind) == (VisitState.CANCELLED, Kind.CANCELLED)
    assert ended.accepted and ended.make_up is not None


def test_events_after_a_visit_has_ended_change_no_row_and_are_said_to_be_stray(lab: Lab) -> None:
    lab.queue()
    ended = lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    before = lab.rows("SELECT * FROM run"), lab.rows("SELECT * FROM sample"), lab.rows("SELECT * FROM visit")
    assert lab.say("h1", ended.visit, *runs({0: Kind.NUMERICS}), VisitEnded(state="failed", kind=CRASH)) == ()
    assert (lab.rows("SELECT * FROM run"), lab.rows("SELECT * FROM sample"), lab.rows("SELECT * FROM visit")) == before
    assert lab.decisions().count("stray") == 2


def test_history_of_another_series_or_experiment_does_not_count(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: CRASH, 2: "ok"})
    lab.queue(matrix().replace('"seeds"', '"others"'))
    other = next(b for b in lab.blocks() if b.experiment == "others")
    assert not lab.measure("h1", {0: "ok", 1: CRASH, 2: "ok"}, other.id).condemned


@pytest.mark.parametrize("outcome", ["ok", "checked", "unsupported"])
def test_every_good_end_is_final(lab: Lab, outcome: str) -> None:
    lab.queue()
    assert lab.measure("h1", {0: "ok", 1: outcome, 2: outcome}).make_up is None
