"""The legal transitions, and what an ended visit is worth."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.failures import Blame, Kind, blame
from core.lifecycle import (
    TRANSITIONS,
    Arm,
    BlockState,
    History,
    HostState,
    IllegalTransition,
    Judgement,
    Outcome,
    Result,
    Settlement,
    State,
    VisitState,
    check,
    judge,
    remember,
    settle,
)

# DESIGN 7, word for word; `lost` may also be cancelled, since cancelling closes the block of a lost visit too.
LEGAL: dict[State, str] = {
    BlockState.OPEN: "accepted closed",
    BlockState.ACCEPTED: "",
    BlockState.CLOSED: "",
    VisitState.LEASED: "running lost finished failed cancelled superseded",
    VisitState.RUNNING: "lost finished failed cancelled superseded",
    VisitState.LOST: "running finished failed cancelled superseded",
    VisitState.FINISHED: "",
    VisitState.FAILED: "",
    VisitState.CANCELLED: "",
    VisitState.SUPERSEDED: "",
    HostState.UNKNOWN: "probing draining held",
    HostState.PROBING: "unknown ready recovering quarantined draining held",
    HostState.READY: "unknown busy suspect recovering quarantined draining held",
    HostState.BUSY: "unknown ready suspect recovering quarantined draining held",
    HostState.SUSPECT: "unknown ready draining held",
    HostState.RECOVERING: "unknown ready quarantined draining held",
    HostState.QUARANTINED: "unknown probing recovering draining held",
    HostState.DRAINING: "unknown drained",
    HostState.DRAINED: "unknown",
    HostState.HELD: "unknown",
}
STATES: list[State] = [*BlockState, *VisitState, *HostState]

JOB, HOST, AMBIGUOUS, NOBODY = (
    [k for k in Kind if blame(k) is b] for b in (Blame.JOB, Blame.HOST, Blame.AMBIGUOUS, Blame.NOBODY)
)
GOOD = [Outcome.OK, Outcome.CHECKED, Outcome.UNSUPPORTED]


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_transition_is_legal_only_as_designed(before: State, after: State) -> None:
    if type(before) is type(after) and after.value in LEGAL[before].split():
        check(before, after)
    else:
        with pytest.raises(IllegalTransition, match=after.value):
            check(before, after)


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(STATES)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_failure_is_judged_by_its_blame(kind: Kind) -> None:
    failed = Result(Outcome.FAILED, kind)
    once = judge("j", failed, History())
    again = judge("j", failed, History(ambiguous={"j": ["h"]}))
    expected = {
        Blame.JOB: (Judgement.CONDEMNED, Judgement.CONDEMNED),
        Blame.HOST: (Judgement.NOTHING, Judgement.NOTHING),
        Blame.AMBIGUOUS: (Judgement.RETRY, Judgement.CONDEMNED),
        Blame.NOBODY: (Judgement.NOTHING, Judgement.NOTHING),
    }
    assert (once, again) == expected[blame(kind)]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_judged(outcome: Outcome) -> None:
    judged = judge("j", Result(outcome), History())
    assert judged is (
        Judgement.GOOD
        if outcome in GOOD
        # a failure that does not say why is one of the runner's own death
        else Judgement.RETRY
        if outcome is Outcome.FAILED
        else Judgement.NOTHING
    )


def test_history_forgets_an_ambiguous_failure_after_a_good_run_and_never_a_final_one() -> None:
    crash, ok = Result(Outcome.FAILED, Kind.CRASH), Result(Outcome.OK)
    one = remember(History(), "h1", [("a", crash), ("b", Result(Outcome.FAILED, Kind.NUMERICS))])
    assert one == History({"a": ("h1",)}, frozenset({"b"}))
    two = remember(one, "h2", [("a", ok), ("b", ok)])
    assert two == History({}, frozenset({"b"}))
    assert remember(one, "h2", [("a", crash)]).failed == {"a", "b"}


# -- the two budgets, by property --------------------------------------------------------------------------------------

RESULTS = st.one_of(
    st.sampled_from([Result(o) for o in (*GOOD, Outcome.STOPPED)]),
    st.sampled_from([Result(Outcome.FAILED, k) for k in Kind]),
)
ATTEMPTS = st.lists(st.tuples(st.sampled_from(["h1", "h2", "h3"]), RESULTS), max_size=12)


@given(ATTEMPTS)
def test_job_fails_for_good_by_its_own_fault_or_by_two_ambiguous_ones_in_a_row(
    attempts: list[tuple[str, Result]],
) -> None:
    """DESIGN 7 in other words, over every kind. What the host did, and what nobody did, leaves no trace."""
    history, strikes, done = History(), [], False
    for host, result in attempts:
        before = history
        judgement = judge("j", result, history)
        history = remember(history, host, [("j", result)])
        if result.outcome in GOOD:
            strikes = []
            assert judgement is Judgement.GOOD
        elif result.kind in JOB:
            done = True
            assert judgement is Judgement.CONDEMNED
        elif result.kind in AMBIGUOUS:
            strikes.append(host)
            done |= len(strikes) > 1
            # exactly one retry, wherever it was
            assert judgement is (Judgement.RETRY if len(strikes) == 1 else Judgement.CONDEMNED)
        else:
            assert result.kind in (None, *HOST, *NOBODY)
            assert (judgement, history) == (Judgement.NOTHING, before)
        assert ("j" in history.failed) is done
        assert list(history.ambiguous.get("j", ())) == strikes[:1]


@given(ATTEMPTS, RESULTS)
def test_attempts_of_one_job_say_nothing_about_another(attempts: list[tuple[str, Result]], result: Result) -> None:
    history = History()
    for host, other in attempts:
        history = remember(history, host, [("other", other)])
    assert judge("j", result, history) is judge("j", result, History())
    after = remember(history, "h1", [("j", result)])
    assert after.ambiguous.get("other") == history.ambiguous.get("other")
    assert ("other" in after.failed) is ("other" in history.failed)


# -- settle, by property -----------------------------------------------------------------------------------------------


@st.composite
def groups(draw: st.DrawFn, references: int = 3) -> tuple[Arm, ...]:
    """1 to 3 references, 0 to 5 other arms, in any order but a reference first; every job its own."""
    heads = draw(st.integers(1, references))
    tail = draw(st.integers(0, 5))
    order = draw(st.permutations(range(1, heads + tail)))
    slot_of = dict(zip([0, *order], range(heads + tail), strict=True))
    arms = []
    for i in range(heads + tail):
        reference = i if i < heads else draw(st.integers(0, heads - 1))
        arms.append(Arm(slot_of[i], f"job{i}", slot_of[reference]))
    return tuple(sorted(arms))


@st.composite
def visits(draw: st.DrawFn) -> tuple[tuple[Arm, ...], dict[int, Result], History]:
    arms = draw(groups())
    jobs = [a.job for a in arms]
    run = draw(st.lists(st.sampled_from([a.slot for a in arms]), unique=True))
    results = {slot: draw(RESULTS) for slot in run}
    history = History(
        ambiguous={job: ["h"] for job in draw(st.sets(st.sampled_from(jobs)))},
        failed=frozenset(draw(st.sets(st.sampled_from(jobs)))),
    )
    return arms, results, history


def _final(arm: Arm, results: Mapping[int, Result], history: History) -> bool:
    """DESIGN 6 in other words: ended well, failed by the job's own fault, or ambiguously for the second time."""
    result = results.get(arm.slot)
    if arm.job in history.failed:
        return True
    if result is None or result.outcome is Outcome.STOPPED:
        return False
    if result.outcome is not Outcome.FAILED:
        return True
    return result.kind in JOB or (result.kind in AMBIGUOUS and arm.job in history.ambiguous)


@given(visits())
def test_settling_never_accepts_a_visit_and_loses_an_arm(
    visit: tuple[tuple[Arm, ...], dict[int, Result], History],
) -> None:
    arms, results, history = visit
    settlement = settle(arms, results, history)
    by_slot = {a.slot: a for a in arms}
    if not settlement.accept:
        assert settlement.make_up == ()
        return
    failed = history.failed | set(settlement.condemned)
    for arm in arms:
        pair = (arm, by_slot[arm.reference])
        counted = all(_final(a, results, history) for a in pair)
        alone = arm.slot != arm.reference or all(a.reference != arm.slot for a in arms if a is not arm)
        if arm.job not in failed and alone and not counted:
            assert {a.slot for a in pair} <= set(settlement.make_up)


@given(visits())
def test_make_up_holds_the_reference_of_each_of_its_arms(
    visit: tuple[tuple[Arm, ...], dict[int, Result], History],
) -> None:
    arms, results, history = visit
    made = set(settle(arms, results, history).make_up)
    assert {a.reference for a in arms if a.slot in made} <= made


@given(visits())
def test_condemned_are_the_jobs_that_history_then_holds(
    visit: tuple[tuple[Arm, ...], dict[int, Result], History],
) -> None:
    arms, results, history = visit
    settlement = settle(arms, results, history)
    after = remember(history, "h2", [(a.job, results[a.slot]) for a in arms if a.slot in results])
    assert set(settlement.condemned) == after.failed - history.failed


@given(groups(), st.data())
def test_infrastructure_alone_settles_nothing_and_spends_nothing(arms: tuple[Arm, ...], data: st.DataObject) -> None:
    results = {a.slot: Result(Outcome.FAILED, data.draw(st.sampled_from([*HOST, *NOBODY]))) for a in arms}
    settlement = settle(arms, results, History())
    assert settlement == Settlement(accept=False, make_up=(), condemned={}, retry=False)


@given(visits())
def test_only_an_ambiguous_failure_sends_the_next_attempt_elsewhere(
    visit: tuple[tuple[Arm, ...], dict[int, Result], History],
) -> None:
    arms, results, history = visit
    first = [a for a in arms if a.slot in results and not history.ambiguous.get(a.job)]
    assert settle(arms, results, history).retry is any(results[a.slot].kind in AMBIGUOUS for a in first)


@given(groups(references=1), st.data())
def test_with_one_reference_it_is_the_rule_of_the_design(arms: tuple[Arm, ...], data: st.DataObject) -> None:
    results = {a.slot: data.draw(RESULTS) for a in arms}
    settlement = settle(arms, results, History())
    reference = arms[0]
    assert settlement.accept == _final(reference, results, History())
    again = {a.slot for a in arms if not _final(a, results, History())}
    assert set(settlement.make_up) == (again | {0} if settlement.accept and again else set())


@given(visits(), st.data())
def test_slots_left_out_are_neither_waited_nor_made_up_for(
    visit: tuple[tuple[Arm, ...], dict[int, Result], History], data: st.DataObject
) -> None:
    arms, results, history = visit
    out = frozenset(data.draw(st.sets(st.sampled_from([a.slot for a in arms]))))
    kept = {slot: result for slot, result in results.items() if slot not in out}
    settlement = settle(arms, kept, history, out)
    for arm in arms:
        if arm.slot in settlement.make_up and arm.slot in out:
            # only as the reference of an arm that is measured again
            assert any(a.reference == arm.slot and a.slot in settlement.make_up and a.slot not in out for a in arms)
    if not any(slot in kept for slot in {a.slot for a in arms}):
        assert not settlement.accept


@given(groups(), st.lists(st.sampled_from([*AMBIGUOUS, *HOST, None]), max_size=25), st.data())
def test_settling_ends_under_any_faults_that_end(
    arms: tuple[Arm, ...], faults: list[Kind | None], data: st.DataObject
) -> None:
    """Faults strike any slots of any visits until they run out (None: the visit is cut short there); then all is well.
    Every block is accepted after at most one more visit than there were faults, and every arm has its pair."""
    faults = list(faults)
    history = History()
    waiting = [arms]
    done: set[str] = set()
    count = len(faults)
    for turn in range(2 * count + 3):
        if not waiting:
            break
        block = waiting.pop(0)
        leased = [a for a in block if a.job not in history.failed]
        left_out = frozenset(a.slot for a in block if a.job in history.failed)
        if not leased:
            continue
        results: dict[int, Result] = {}
        for arm in leased:
            if faults and data.draw(st.booleans()):
                kind = faults.pop()
                if kind is None:
                    break
                results[arm.slot] = Result(Outcome.FAILED, kind)
            else:
                results[arm.slot] = Result(Outcome.OK)
        settlement = settle(block, results, history, left_out)
        history = remember(history, f"h{turn}", [(a.job, results[a.slot]) for a in block if a.slot in results])
        if not settlement.accept:
            waiting.insert(0, block)
            continue
        made = set(settlement.make_up)
        done |= {a.job for a in block if a.slot not in made}
        if made:
            index = {slot: i for i, slot in enumerate(sorted(made))}
            waiting.insert(0, tuple(Arm(index[a.slot], a.job, index[a.reference]) for a in block if a.slot in made))
    assert not waiting, "it did not end"
    assert {a.job for a in arms} == done | history.failed
