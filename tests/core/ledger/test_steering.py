"""Pause, resume, cancel, retry."""

import json

import pytest

from core.failures import Kind
from core.ledger.errors import UnknownExperiment
from tests.core.ledger.conftest import Lab, matrix

OK = {0: "ok", 1: "ok", 2: "ok"}


def _seeds(lab: Lab) -> list[list[int]]:
    seed = dict(lab.rows("SELECT id, json_extract(spec, '$.seed') FROM job"))
    return [[seed[a.job] for a in b.arms] for b in lab.blocks()]


def test_pause_and_resume_say_so_and_show_in_the_snapshot(lab: Lab) -> None:
    lab.queue()
    assert "hillclimb resume seeds" in lab.ledger.pause("seeds", "lunch")
    assert lab.ledger.snapshot().series[1].paused == "lunch"
    assert lab.ledger.resume("seeds") == "seeds goes on"
    assert lab.ledger.resume("seeds") == "seeds is not paused"
    assert lab.ledger.snapshot().series[1].paused is None
    assert lab.decisions() == ["paused", "resumed"]


@pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "retry"])
def test_unknown_experiment_names_the_nearest(lab: Lab, verb: str) -> None:
    lab.queue()
    arguments = {"pause": ("why",), "resume": (), "cancel": ({},), "retry": ({},)}[verb]
    with pytest.raises(UnknownExperiment, match="did you mean 'seeds'") as e:
        getattr(lab.ledger, verb)("seed", *arguments)
    assert e.value.exit_code == 5


def test_cancel_closes_what_is_open_and_stops_what_runs_and_keeps_what_was_measured(lab: Lab) -> None:
    lab.queue(matrix(blocks=3))
    done = lab.measure("h1", OK)
    running = lab.lease("h1")
    assert "2 blocks are cancelled" in lab.ledger.cancel("seeds", {})
    assert lab.blocks() == () and lab.ledger.snapshot().visits == ()
    assert lab.rows("SELECT id, state FROM visit") == [(done.visit, "finished"), (running, "cancelled")]
    assert lab.rows("SELECT accepted_visit FROM block WHERE closed IS NULL") == [(done.visit,)]
    # its host may measure something else at once
    lab.queue(matrix().replace('"seeds"', '"others"'))
    lab.lease("h1")
    assert "nothing to cancel" in lab.ledger.cancel("seeds", {})


def test_cancel_where_leaves_the_other_arms_in_blocks_of_their_own(lab: Lab) -> None:
    lab.queue()
    running = lab.lease("h1")
    lab.ledger.cancel("seeds", {"seed": "1"})
    assert _seeds(lab) == [[0, 2], [0, 2]]
    assert lab.rows("SELECT state FROM visit WHERE id = ?", running) == [("cancelled",)]
    assert lab.rows("SELECT DISTINCT closed FROM block WHERE closed IS NOT NULL") == [
        ("cancelled: a person asked for it, where seed=1",)
    ]


def test_cancel_where_only_the_reference_matches_cancels_nothing(lab: Lab) -> None:
    lab.queue()
    assert "nothing to cancel" in lab.ledger.cancel("seeds", {"seed": "0"})
    assert len(lab.blocks()) == 2


def test_cancel_of_all_arms_leaves_no_reference_behind(lab: Lab) -> None:
    lab.queue()
    lab.ledger.cancel("seeds", {"seed": "1"})
    lab.ledger.cancel("seeds", {"seed": "2"})
    assert lab.blocks() == ()


def test_where_that_matches_nothing_names_the_coordinates(lab: Lab) -> None:
    lab.queue()
    with pytest.raises(UnknownExperiment, match=r"no cell where seed=9: its coordinates are seed"):
        lab.ledger.cancel("seeds", {"seed": "9"})


def test_cancel_stands_when_the_matrix_is_queued_again(lab: Lab) -> None:
    lab.queue()
    lab.ledger.cancel("seeds", {"seed": "1"})
    for _ in range(2):
        lab.measure("h1", {0: "ok", 1: "ok"})
    done = lab.queue()
    assert (done.blocks_new, done.blocks_open) == (0, 0)
    assert any("cancelled" in s and "hillclimb retry seeds" in s for s in done.sentences)
    assert lab.queue(matrix(blocks=3)).blocks_new == 1
    assert _seeds(lab) == [[0, 2]]


def test_retry_brings_back_what_was_cancelled(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", OK)
    lab.ledger.cancel("seeds", {"seed": "1"})
    lab.ledger.retry("seeds", {})
    assert _seeds(lab) == [[0, 2], [0, 1]]
    assert lab.queue().blocks_new == 0


def test_retry_forgives_what_failed_and_makes_the_blocks_it_lacks(lab: Lab) -> None:
    lab.queue(matrix(blocks=3))
    lab.measure("h1", OK)
    lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    visit = lab.lease("h1", order=(0, 2))
    lab.end("h1", visit, {0: "ok", 2: "ok"})
    assert lab.blocks() == ()
    lab.ledger.pause("seeds", "its first jobs failed")
    sentence = lab.ledger.retry("seeds", {})
    assert sentence == "seeds: 1 failed jobs are forgiven, 2 blocks more are to be measured, and it is no longer paused"
    assert _seeds(lab) == [[0, 1], [0, 1]]
    series = lab.ledger.snapshot().series[1]
    assert (series.failed, series.paused) == (frozenset(), None)
    assert not lab.measure("h1", {0: "ok", 1: Kind.CRASH}).condemned
    assert "nothing to retry" in lab.ledger.retry("seeds", {})


def test_retry_while_a_visit_runs_without_the_job_makes_up_for_it(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    visit = lab.lease("h1", order=(0, 2))
    lab.ledger.retry("seeds", {})
    lab.end("h1", visit, {0: "ok", 2: "ok"})
    assert _seeds(lab) == [[0, 1], [0, 1]]


def test_retry_where_forgives_only_those(lab: Lab) -> None:
    lab.queue(matrix(blocks=1))
    ended = lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: Kind.COMPILE_ERROR})
    assert len(ended.condemned) == 2
    lab.ledger.retry("seeds", {"seed": "2"})
    assert _seeds(lab) == [[0, 2]]
    (failed,) = lab.ledger.snapshot().series[1].failed
    assert lab.rows("SELECT json_extract(spec, '$.seed') FROM job WHERE id = ?", failed) == [(1,)]


def test_retry_where_leaves_other_cancelled_cells_cancelled(lab: Lab) -> None:
    lab.queue(matrix(blocks=1))
    lab.ledger.cancel("seeds", {})
    lab.ledger.retry("seeds", {"seed": "2"})
    assert _seeds(lab) == [[0, 2]]
    assert lab.queue(matrix(blocks=1)).blocks_new == 0


def test_retry_of_a_failed_reference_brings_back_its_whole_group(lab: Lab) -> None:
    lab.queue(matrix(blocks=1))
    assert lab.measure("h1", {0: Kind.NUMERICS, 1: "ok", 2: "ok"}).accepted
    assert lab.blocks() == ()
    lab.ledger.retry("seeds", {})
    assert _seeds(lab) == [[0, 1, 2]]
    assert json.loads(lab.rows("SELECT slots FROM block ORDER BY id DESC LIMIT 1")[0][0])[1]["reference"] == 0


def test_failure_under_way_when_retry_was_asked_for_does_not_count_and_is_made_up_for(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    visit = lab.lease("h1")
    lab.ledger.retry("seeds", {})
    ended = lab.end("h1", visit, {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    assert ended.accepted and ended.make_up and not ended.condemned
    assert lab.ledger.snapshot().series[1].failed == frozenset()
    assert _seeds(lab) == [[0, 1], [0, 1]]
