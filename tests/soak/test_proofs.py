"""The proofs of the soak find what they look for, and nothing where nothing is."""

from typing import Any

from tests.soak import proofs, summary
from tests.soak.faults import DECK, Fault, Fired
from tests.soak.record import Block, Probe, Record, Run, Runner, Visit

S = 10**9


def record(**changed: Any) -> Record:
    """One block of two arms on h1. Its first visit lost its runner to our kill, its second was accepted."""
    before = Record(
        blocks=(Block(1, "bulk", "first", 2, None, 0, 3),),
        visits=(
            Visit(1, 1, "h1", "failed", "killed", 10 * S, 20 * S),
            Visit(2, 1, "h1", "finished", None, 50 * S, 60 * S),
        ),
        runs=(
            Run(1, 1, 0, "a", "failed", "killed", 0),
            Run(2, 2, 0, "a", "ok", None, 3),
            Run(3, 2, 1, "b", "ok", None, 3),
        ),
        runners=(Runner(1, 1, 100, 7, proofs.KILLED), Runner(2, 1, 101, 8, "exit 0")),
        probes=(),
        begun=(1, 2),
        decided=(),
    )
    return before._replace(**changed)


def fired(
    fault: Fault, at_s: int, until_s: int | None = None, host: str = "h1", pid: int = 100, start: int = 7
) -> Fired:
    return Fired(fault, host, pid, start, at_s * S, (until_s or at_s) * S)


KILL = fired(Fault.RUNNER_KILL, 15)
DONE = {"cell": "a", "state": "done", "reason": ""}


def test_proofs_of_a_good_record_find_nothing() -> None:
    assert proofs.nothing_lost(record(), {"bulk": [DONE, DONE]}, {"bulk": 0}) == []
    assert proofs.nothing_twice(record()) == []
    assert proofs.samples_complete(record()) == []
    assert proofs.budgets_kept(record(), {"bulk": []}, [KILL]) == []
    assert proofs.kinds_match(record(), [KILL], ()) == []
    assert proofs.faults_seen(record(), [KILL], [Fault.RUNNER_KILL]) == []


def test_nothing_lost_with_a_cell_that_waits_says_how_many_are_done() -> None:
    waiting = {"cell": "b", "state": "waiting", "reason": ""}
    (said,) = proofs.nothing_lost(record(), {"bulk": [DONE, waiting]}, {"bulk": 0})
    assert said == "bulk should end with 2 done, and has 1 done, 1 waiting"


def test_nothing_lost_with_a_failed_cell_asks_for_its_reason_and_its_number() -> None:
    failed = {"cell": "b", "state": "poisoned(crash)", "reason": "the runner died"}
    assert proofs.nothing_lost(record(), {"bulk": [DONE, failed]}, {"bulk": 1}) == []
    assert len(proofs.nothing_lost(record(), {"bulk": [DONE, failed]}, {"bulk": 0})) == 1
    assert proofs.nothing_lost(record(), {"bulk": [DONE, failed | {"reason": ""}]}, {"bulk": 1}) == [
        "bulk: b is poisoned(crash) without a reason"
    ]


def test_nothing_lost_with_an_open_block_names_it() -> None:
    still_open = record(blocks=(Block(1, "bulk", "first", None, None, 0, 3),))
    assert proofs.nothing_lost(still_open, {}, {}) == ["block 1 of bulk is open"]


def test_nothing_twice_finds_each_kind_of_repetition() -> None:
    two_runs = record(runs=(*record().runs, Run(4, 2, 1, "b", "ok", None, 3)))
    assert proofs.nothing_twice(two_runs) == ["visit 2 slot 1 has 2 runs"]
    assert proofs.nothing_twice(record(begun=(1, 2, 2))) == ["visit 2 was started 2 times"]
    shared = record(blocks=(*record().blocks, Block(2, "bulk", "first", 2, None, 0, 3)))
    assert proofs.nothing_twice(shared) == [
        "visit 2 is accepted by 2 blocks",
        "block 2 accepts visit 2, which is one of block 1",
    ]


def test_samples_complete_finds_a_missing_sample_and_an_open_run() -> None:
    short = record(runs=(Run(2, 2, 0, "a", "ok", None, 2), Run(3, 2, 1, "b", None, None, 0)))
    assert proofs.samples_complete(short) == [
        "run 2.0 is ok with 2 of 3 samples",
        "run 2.1 is open with 0 of 3 samples",
    ]


def test_budgets_kept_forgives_two_kills_of_ours_and_nothing_less() -> None:
    runs = (Run(1, 1, 0, "a", "failed", "killed", 0), Run(2, 2, 0, "a", "failed", "killed", 0))
    second = fired(Fault.RUNNER_KILL, 55, pid=101, start=8)
    assert proofs.budgets_kept(record(runs=runs), {"bulk": ["a"]}, [KILL, second]) == []
    once = "bulk: job a failed for good, with 1 kills of ours: 1.0 killed, 2.0 killed"
    assert once in proofs.budgets_kept(record(runs=runs), {"bulk": ["a"]}, [KILL])
    assert len(proofs.budgets_kept(record(runs=runs[:1]), {"bulk": ["a"]}, [KILL])) == 1
    crashed = (*runs, Run(3, 2, 1, "a", "failed", "crash", 0))
    assert len(proofs.budgets_kept(record(runs=crashed), {"bulk": ["a"]}, [KILL, second])) == 1
    assert len(proofs.budgets_kept(record(), {"bulk": ["b"]}, [KILL])) == 1


def test_budgets_kept_with_one_kill_that_cost_two_jobs_says_so() -> None:
    runs = (Run(1, 1, 0, "a", "failed", "killed", 0), Run(2, 1, 1, "b", "failed", "killed", 0))
    assert proofs.budgets_kept(record(runs=runs), {}, [KILL]) == ["visit 1: 1 kills cost 2 jobs an attempt"]


def test_kinds_match_wants_a_kill_of_the_very_runner() -> None:
    other = fired(Fault.RUNNER_KILL, 15, start=9)
    assert len(proofs.kinds_match(record(), [other], ())) == 2  # the visit, and its run
    assert proofs.kinds_match(record(), [other], ("a",)) == []


def test_kinds_match_wants_a_fault_on_the_host_during_the_visit() -> None:
    lost = record(visits=(Visit(1, 1, "h1", "failed", "worker_lost", 10 * S, 20 * S),), runs=())
    assert proofs.kinds_match(lost, [fired(Fault.ACTOR_KILL, 15)], ()) == []
    assert proofs.kinds_match(lost, [fired(Fault.RAYLET_KILL, 2, 8)], ()) == []
    for other in (
        fired(Fault.ACTOR_KILL, 15, host="h2"),
        fired(Fault.ACTOR_KILL, 21),
        fired(Fault.DISK_FULL, 15),
        fired(Fault.RUNNER_STOP, 15),
    ):
        assert len(proofs.kinds_match(lost, [other], ())) == 1


def test_faults_seen_names_what_was_not_done_and_the_runner_nobody_heard_of() -> None:
    unheard = fired(Fault.RUNNER_KILL, 15, pid=300)
    assert proofs.faults_seen(record(), [unheard], [Fault.RUNNER_KILL, Fault.ACTOR_STOP]) == [
        "actor SIGSTOP was never done: let the soak last longer",
        "the ledger has never heard of runner 300 on h1, which was killed",
    ]


def test_hits_counts_the_runners_that_died_of_it() -> None:
    too_late = fired(Fault.RUNNER_KILL, 60, pid=101, start=8)
    assert proofs.hits(record(), [KILL, too_late]) == 1


def test_every_fault_has_its_causes_and_is_in_the_deck() -> None:
    assert set(proofs.CAUSES) == set(Fault) == set(DECK)


def test_summary_counts_recoveries_and_waits() -> None:
    turns = tuple(Probe("h1", i * S, clean) for i, clean in enumerate((True, False, False, True)))
    assert summary.recoveries(record(probes=(*turns, Probe("h2", 0, False)))) == 1
    assert summary.first_waits(record()) == [10.0]
    assert summary.further_waits(record()) == [30.0]
    # given up as lost, measured elsewhere, and heard of afterwards
    late = record(visits=(Visit(1, 1, "h1", "superseded", None, 10 * S, 90 * S), record().visits[1]))
    assert summary.further_waits(late) == []


def test_summary_tells_the_time_lost_from_the_time_used() -> None:
    told = dict(summary.rows(record(), [KILL], {0: 1, -9: 2}, {"bulk": []}, 3, 30.0, 60.0))
    assert told["device time of accepted visits"] == told["device time of other visits"] == "10 s"
    assert told["idle time of the hosts"] == "40 s of 60 s"
    assert told["visits"] == "2, of which 1 were beyond those needed"
    assert told["  failed (killed)"] == "1"
    assert told["controllers by their exit status"] == "2 of -9, 1 of 0"
