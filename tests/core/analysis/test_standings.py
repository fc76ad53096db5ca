"""Where a cell stands, in the situations that a ledger reaches rarely."""

from types import SimpleNamespace

import pytest

from core.analysis.compare import compare
from core.analysis.pairs import paired
from core.ledger.completeness import CellState, standings
from core.ledger.rows import Record

GOOD = (20.0, 10.0)


def _of(record: Record) -> dict[str, tuple[str, int, str]]:
    return {s.cell.job or "": (s.shown, s.blocks, s.reason) for s in standings(record)}


def _ended(record: Record, job: str, outcome: str) -> Record:
    runs = [r._replace(outcome=outcome, wall_ns=(), reason="why") if r.job == job else r for r in record.runs]
    return record._replace(runs=tuple(runs))


def test_standings_arm_whose_reference_failed_for_good_is_done_and_says_so(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    record = lab.series(arms, [lab.Timed({"ref": "numerics", "arm": [10] * 3})])
    assert _of(record) == {
        "ref": ("failed(numerics)", 0, "it broke"),
        "arm": ("done", 0, "measured, not compared: its reference failed (numerics)"),
    }


def test_standings_arm_that_failed_does_not_count(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    lost = lab.Timed({"ref": [20] * 3, "arm": "host_lost"})
    record = lab.series(arms, [lab.timed(GOOD), lost])
    assert _of(record)["arm"] == ("missing", 1, "1 of 2 blocks and none is queued: run the matrix again")
    assert _of(record)["ref"] == ("done", 2, "")


@pytest.mark.parametrize(
    ("outcome", "shown", "reason"),
    [
        ("checked", "done", "checked, not timed: its kernel is interpreted here"),
        ("unsupported", "skipped", "unsupported: why"),
        ("stopped", "missing", "0 of 1 blocks and none is queued: run the matrix again"),
    ],
)
def test_standings_run_that_was_not_timed(lab: SimpleNamespace, outcome: str, shown: str, reason: str) -> None:
    record = _ended(lab.two_arms([GOOD]), "arm", outcome)
    assert _of(record)["arm"] == (shown, 0, reason)


def test_standings_two_hosts_poison_one_host_fails_and_a_good_run_between_forgives(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    crash = lab.Timed({"ref": [20] * 3, "arm": "crash"})
    assert _of(lab.series(arms, [crash, crash._replace(host="h2")]))["arm"][0] == "poisoned(crash)"
    assert _of(lab.series(arms, [crash, crash]))["arm"][0] == "failed(crash)"
    assert _of(lab.series(arms, [crash, lab.timed(GOOD), crash]))["arm"][0] == "missing"
    forgiven = lab.Details(forgiven={"arm": 1})
    assert _of(lab.series(arms, [crash, crash], forgiven))["arm"][0] == "missing"


def test_standings_no_block_at_all_is_missing(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    record = lab.series(arms, [lab.Timed({"ref": [20] * 3})])
    assert _of(record)["arm"][0] == CellState.MISSING


def test_standings_closed_block_cancels_what_it_was_for(lab: SimpleNamespace) -> None:
    arms = [lab.Arm("ref", "ref", {"backend": "r"}), lab.Arm("arm", "ref", {"backend": "b"})]
    record = lab.series(arms, [lab.timed(GOOD), lab.timed(GOOD, closed="cancelled by hand")])
    assert _of(record)["arm"] == ("cancelled", 1, "cancelled by hand (after 1 of 2 blocks)")


def test_pairs_a_repeat_of_the_reference_is_no_arm(lab: SimpleNamespace) -> None:
    record = lab.two_arms([GOOD] * 3)
    blocks = [b._replace(slots=(b.slots[0], b.slots[1]._replace(role="repeat"))) for b in record.blocks]
    repeated = record._replace(blocks=tuple(blocks))
    assert paired(repeated) == {}
    assert [c.estimate for c in compare(repeated)] == [None]


def test_standings_reference_whose_arms_all_failed_for_good_is_dropped_not_missing(lab: SimpleNamespace) -> None:
    """Among several references of a group: the block goes on for the others, and is closed for nobody."""
    arms = [lab.Arm(f"{what}{n}", f"ref{n}", {"backend": what, "n": str(n)}) for n in (1, 2) for what in ("ref", "arm")]
    bad = lab.Timed({"ref1": [10.0], "arm1": "user_error", "ref2": [10.0], "arm2": [10.0]})
    rest = lab.Timed({"ref2": [10.0], "arm2": [10.0]})
    of = _of(lab.series(arms, [bad, rest]))
    assert of["ref1"] == ("cancelled", 1, "dropped: all that is compared with it failed for good (after 1 of 2 blocks)")
    assert (of["arm1"][0], of["ref2"][0], of["arm2"][0]) == ("failed(user_error)", "done", "done")
