"""Queueing: what is added, what is retired, what stays as it is."""

import json

import pytest

from core.failures import Kind
from core.ledger.errors import SeriesChanged
from core.ledger.writer import OnChange
from core.matrix import Expansion, expand
from tests.core.ledger.conftest import Lab, matrix


def _dump(lab: Lab) -> list[object]:
    tables = ("experiment", "series", "cell", "job", "block", "visit", "forgiven")
    return [lab.rows(f"SELECT * FROM {table}") for table in tables]


def _seeds(lab: Lab, block: int) -> list[int]:
    """The seeds of a block's arms, in their order."""
    (slots,) = lab.rows("SELECT slots FROM block WHERE id = ?", block)[0]
    seed = dict(lab.rows("SELECT id, json_extract(spec, '$.seed') FROM job"))
    return [seed[slot["job"]] for slot in json.loads(slots)]


def test_first_queueing_makes_blocks_block_major(lab: Lab) -> None:
    done = lab.queue(matrix(sleeps=(0.0, 0.5), blocks=3))
    assert (done.cells, done.jobs, done.blocks_new, done.blocks_open, done.retired, done.ordinal) == (6, 6, 6, 6, 0, 1)
    blocks = lab.blocks()
    assert [b.ordinal for b in blocks] == [0, 0, 1, 1, 2, 2]
    assert blocks[0].grp != blocks[1].grp and blocks[0].grp == blocks[2].grp
    assert {b.origin for b in blocks} == {"first"}
    assert [(a.slot, a.reference) for a in blocks[0].arms] == [(0, 0), (1, 0), (2, 0)]


def test_cells_are_stored_with_their_reference_or_their_reason(lab: Lab) -> None:
    lab.queue(matrix() + '[[exclude]]\nseed = 2\nwhy = "not today"\n')
    cells = lab.rows("SELECT coordinates, job, reference, why FROM cell ORDER BY ordinal")
    jobs = [job for _, job, _, _ in cells]
    assert [json.loads(c)["seed"] for c, *_ in cells] == ["0", "1", "2"]
    assert [reference for _, _, reference, _ in cells] == [jobs[0], jobs[0], None]
    assert jobs[2] is None and "not today" in cells[2][3]


def test_same_matrix_again_adds_nothing(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: "ok"} | {2: Kind.WORKER_LOST})
    before = _dump(lab)
    again = lab.queue()
    assert (again.blocks_new, again.blocks_done, again.blocks_open) == (0, 1, 2)
    assert _dump(lab) == before
    assert "nothing new" in again.sentences[0]


def test_finished_matrix_again_adds_nothing(lab: Lab) -> None:
    lab.queue()
    for _ in range(2):
        lab.measure("h1", {0: "ok", 1: "checked", 2: "unsupported"})
    assert (lab.queue().blocks_new, lab.blocks()) == (0, ())


def test_new_arms_come_in_extension_blocks_with_the_reference(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    done = lab.queue(matrix(seeds=(0, 1, 2, 3, 4)))
    assert (done.blocks_new, done.retired) == (2, 0)
    new = [b for b in lab.blocks() if b.origin == "extension"]
    assert [b.ordinal for b in new] == [2, 3]
    assert _seeds(lab, new[0].id) == [0, 3, 4]
    assert [a.reference for a in new[0].arms] == [0, 0, 0]
    assert lab.queue(matrix(seeds=(0, 1, 2, 3, 4))).blocks_new == 0


def test_new_group_comes_in_first_blocks(lab: Lab) -> None:
    lab.queue()
    lab.queue(matrix(sleeps=(0.0, 0.5)))
    assert sorted((b.origin, b.ordinal) for b in lab.blocks()) == [
        ("first", 0),
        ("first", 0),
        ("first", 1),
        ("first", 1),
    ]


def test_more_blocks_are_more_ordinals_in_the_same_series(lab: Lab) -> None:
    lab.queue()
    done = lab.queue(matrix(blocks=5))
    assert (done.ordinal, done.blocks_new) == (1, 3)
    assert sorted(b.ordinal for b in lab.blocks()) == [0, 1, 2, 3, 4]


def test_fewer_blocks_drop_the_last_that_wait_and_never_one_under_way(lab: Lab) -> None:
    lab.queue(matrix(blocks=5))
    lab.lease("h1", lab.blocks()[4].id)
    lab.queue(matrix(blocks=2))
    assert [b.ordinal for b in lab.blocks()] == [0, 4]
    assert lab.rows("SELECT DISTINCT closed FROM block WHERE closed IS NOT NULL") == [
        ("dropped: [measure] blocks is 2 now",)
    ]


def test_cell_no_longer_named_is_retired_and_keeps_its_runs(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    done = lab.queue(matrix(seeds=(0, 1)))
    assert done.retired == 1 and "retired" in done.sentences[0]
    assert lab.rows("SELECT ordinal, retired IS NULL FROM cell ORDER BY ordinal") == [(0, 1), (1, 1), (2, 0)]
    assert lab.rows("SELECT COUNT(*) FROM run WHERE outcome = 'ok'") == [(3,)]
    # what remains of the open block is measured in a block of its own
    (left,) = lab.blocks()
    assert _seeds(lab, left.id) == [0, 1]
    assert lab.rows("SELECT COUNT(*) FROM block WHERE closed LIKE 'dropped:%'") == [(1,)]
    assert lab.queue(matrix(seeds=(0, 1))).retired == 0


def test_group_no_longer_named_loses_its_open_blocks(lab: Lab) -> None:
    lab.queue(matrix(sleeps=(0.0, 0.5)))
    assert lab.queue(matrix(sleeps=(0.5,))).blocks_open == 2
    assert len(lab.blocks()) == 2


def test_retired_cell_named_again_gets_the_blocks_it_lacks(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    lab.queue(matrix(seeds=(0, 1)))
    done = lab.queue()
    assert done.blocks_new == 1
    assert sorted(map(tuple, (_seeds(lab, b.id) for b in lab.blocks()))) == [(0, 1), (0, 2)]
    assert lab.rows("SELECT COUNT(*) FROM cell WHERE retired IS NOT NULL") == [(0,)]


def test_changed_job_under_the_same_coordinates_is_another_cell(lab: Lab) -> None:
    lab.queue()
    changed = matrix().replace('kind = "selftest"', 'kind = "selftest"\nend = "hang"')
    assert lab.queue(changed).retired == 3
    assert lab.rows("SELECT COUNT(*) FROM cell WHERE retired IS NULL") == [(3,)]
    assert {b.ordinal for b in lab.blocks()} == {2, 3}


def test_changed_code_is_refused_and_nothing_is_changed(lab: Lab) -> None:
    lab.queue()
    before = _dump(lab)
    with pytest.raises(
        SeriesChanged, match=r"the code changed \(code to other\).*--again.*series 2.*--same-series"
    ) as e:
        lab.queue(matrix(blocks=4, priority=3), code="other")
    assert e.value.exit_code == 2
    assert _dump(lab) == before


def test_changed_measure_is_refused_with_the_key(lab: Lab) -> None:
    lab.queue()
    with pytest.raises(SeriesChanged, match=r"\[measure\] iters changed from 3 to 9"):
        lab.queue(matrix(iters=9))


def test_again_begins_the_next_series_and_drops_what_waited(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: "ok", 2: "ok"})
    done = lab.queue(code="other", on_change=OnChange.AGAIN)
    assert (done.ordinal, done.blocks_new, done.blocks_done) == (2, 2, 0)
    assert {b.series for b in lab.blocks()} == {done.series}
    assert lab.rows("SELECT closed FROM block WHERE series = 1 AND accepted_visit IS NULL") == [
        ("dropped: series 2 was begun",)
    ]
    # the same command once more goes on with what it began
    assert lab.queue(code="other", on_change=OnChange.AGAIN).ordinal == 2


def test_same_series_goes_on_and_is_remembered(lab: Lab) -> None:
    lab.queue()
    done = lab.queue(code="other", on_change=OnChange.SAME_SERIES)
    assert (done.ordinal, done.blocks_new, len(lab.blocks())) == (1, 0, 2)
    assert "same series" in lab.decisions()
    assert lab.queue(code="other").ordinal == 1


def test_job_that_failed_for_good_gets_no_new_blocks(lab: Lab) -> None:
    lab.queue()
    lab.measure("h1", {0: "ok", 1: Kind.NUMERICS, 2: "ok"})
    done = lab.queue(matrix(blocks=4))
    assert any("hillclimb retry seeds" in s for s in done.sentences)
    assert [_seeds(lab, b.id) for b in lab.blocks() if b.origin == "extension"] == [[0, 2], [0, 2]]


def test_blocks_of_a_larger_priority_come_first(lab: Lab) -> None:
    lab.queue()
    lab.queue(matrix(priority=5).replace('"seeds"', '"urgent"'))
    assert [b.experiment for b in lab.blocks()] == ["urgent", "urgent", "seeds", "seeds"]


def test_paused_experiment_says_so_when_queued(lab: Lab) -> None:
    lab.queue()
    lab.ledger.pause("seeds", "lunch")
    assert any("lunch" in s and "hillclimb resume seeds" in s for s in lab.queue().sentences)


def test_moe_matrix_with_several_references_keeps_each_pair(lab: Lab) -> None:
    text = """
        [experiment]
        id = "first"
        goal = "Does blocked beat ragged_dot?"
        [job]
        kind = "moe_block"
        tokens = 1024
        hidden = 128
        mlp_dim = 256
        topk = 2
        [axes]
        backend = ["ragged_dot", "blocked"]
        experts = [4, 8, 16]
        [baseline]
        backend = "ragged_dot"
        [measure]
        blocks = 4
        interleave = ["backend", "experts"]
    """
    lab.ledger.enqueue(expand(text, "first.toml"), "code")
    blocks = lab.blocks()
    assert len(blocks) == 4
    specs = {job: json.loads(spec) for job, spec in lab.rows("SELECT id, spec FROM job")}
    arms = blocks[0].arms
    assert len(arms) == 6 and arms[0].reference == 0
    for arm in arms:
        reference = specs[arms[arm.reference].job]
        assert reference["backend"] == "ragged_dot"
        assert reference["experts"] == specs[arm.job]["experts"]
    # the arm of one reference fails on the host's account: only that pair is made up for
    slot = next(a.slot for a in arms if a.reference != a.slot)
    ends = {a.slot: "ok" for a in arms} | {slot: Kind.DISK}
    ended = lab.measure("h1", ends)
    made = next(b for b in lab.blocks() if b.id == ended.make_up)
    assert [a.job for a in made.arms] == [arms[arms[slot].reference].job, arms[slot].job]


def _of_code(revision: str) -> Expansion:
    text = matrix(seeds=(0, 1)).replace("[axes]", '[axes]\ncode = ["main", "."]')
    return expand(text, "seeds.toml", revisions={"main": revision})


def test_name_that_stands_for_another_commit_makes_other_jobs_and_retires_the_old_ones(lab: Lab) -> None:
    lab.ledger.enqueue(_of_code("a" * 40), "code")
    done = lab.ledger.enqueue(_of_code("b" * 40), "code")
    assert done.retired == 2
    assert f"code = main was commit {'a' * 12} and is {'b' * 12} now: other jobs" in done.sentences
    cells = lab.rows(
        "SELECT json_extract(coordinates, '$.code'), json_extract(spec, '$.code'), retired IS NULL "
        "FROM cell JOIN job ON job.id = cell.job ORDER BY ordinal"
    )
    assert cells == [("main", "b" * 40, 1)] * 2 + [(".", "", 1)] * 2 + [("main", "a" * 40, 0)] * 2
    assert lab.rows("SELECT revisions FROM series") == [(json.dumps({"main": "b" * 40}),)]


def test_name_that_stands_for_the_same_commit_adds_nothing(lab: Lab) -> None:
    lab.ledger.enqueue(_of_code("a" * 40), "code")
    done = lab.ledger.enqueue(_of_code("a" * 40), "code")
    assert (done.blocks_new, done.retired) == (0, 0)
    assert not [sentence for sentence in done.sentences if "was commit" in sentence]
