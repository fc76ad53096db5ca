"""The planner: who gets which block, what is given up, and when there is nothing left to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.failures import Kind
from core.ledger.snapshot import OpenBlock, OpenVisit, SeriesView, Snapshot
from core.lifecycle import Arm, HostState, VisitState
from orchestrator.plan import (
    Assign,
    Close,
    Finish,
    HostView,
    Lose,
    Pause,
    Place,
    Quarantine,
    TakeBack,
    Unplaced,
    World,
    order,
    plan,
    runnable,
)

PAIR = (Arm(0, "ref", 0), Arm(1, "arm", 0))


def block(id=1, arms=PAIR, ordinal=0, avoid=None, measured_by=None, experiment="x", series=1):
    return OpenBlock(id, experiment, series, "g", ordinal, arms, "first", avoid, measured_by or {})


def series(id=1, experiment="x", paused=None, verdicts=(), measured=(), failed=()):
    return SeriesView(id, experiment, paused, tuple(verdicts), frozenset(measured), frozenset(failed))


def host(name="h", machine=None, state=HostState.READY, **fields):
    return HostView(name, machine or name, state, **fields)


def world(blocks=(), hosts=(), visits=(), all_series=(), **fields):
    views = {h.name: h for h in hosts}
    return World(Snapshot(tuple(blocks), tuple(visits), {s.id: s for s in all_series or (series(),)}), views, **fields)


def assigned(effects):
    return [(e.block.id, e.host) for e in effects if isinstance(e, Assign)]


def test_plan_with_a_ready_host_assigns_the_first_block_in_queue_order():
    effects = plan(world([block(1), block(2)], [host()]), now=0)
    assert assigned(effects) == [(1, "h")]


def test_plan_with_two_hosts_on_one_machine_runs_one_visit_at_a_time():
    hosts = [host("a", machine="m"), host("b", machine="m")]
    assert assigned(plan(world([block(1), block(2)], hosts), now=0)) == [(1, "a")]
    assert assigned(plan(world([block(1), block(2)], hosts, exclusive=False), now=0)) == [(1, "a"), (2, "b")]


def test_plan_with_a_lost_visit_still_alive_keeps_its_machine_occupied():
    hosts = [host("a", machine="m", state=HostState.BUSY, alive=frozenset({9})), host("b", machine="m")]
    assert assigned(plan(world([block(1)], hosts), now=0)) == []


def test_plan_prefers_the_host_that_measured_the_group_least():
    hosts = [host("a"), host("b")]
    assert assigned(plan(world([block(measured_by={"a": 1})], hosts), now=0)) == [(1, "b")]


def test_plan_with_an_avoided_host_waits_for_another_usable_one():
    busy = host("b", state=HostState.BUSY, alive=frozenset({5}))
    visits = [OpenVisit(5, 7, "x", "b", VisitState.RUNNING)]
    assert assigned(plan(world([block(avoid="a")], [host("a"), busy], visits), now=0)) == []


def test_plan_with_an_avoided_host_alone_in_the_pool_uses_it():
    assert assigned(plan(world([block(avoid="a")], [host("a")]), now=0)) == [(1, "a")]


def test_plan_before_a_host_s_backoff_is_over_assigns_nothing_to_it():
    backed_off = world([block()], [host(not_before=10.0)])
    assert assigned(plan(backed_off, now=9.9)) == []
    assert assigned(plan(backed_off, now=10.0)) == [(1, "h")]


def test_plan_for_each_unusable_state_assigns_nothing():
    for state in set(HostState) - {HostState.READY}:
        assert assigned(plan(world([block()], [host(state=state)]), now=0)) == []


def test_plan_with_an_open_visit_assigns_neither_its_block_nor_its_host():
    visits = [OpenVisit(3, 1, "x", "h", VisitState.LEASED)]
    assert plan(world([block(1), block(2)], [host()], visits), now=0) == []


def test_plan_with_a_lost_host_gives_its_visit_up():
    lost = host(state=HostState.UNKNOWN, loss=Kind.RAYLET_LOST, reason="silent")
    effects = plan(world([block()], [lost], [OpenVisit(3, 1, "x", "h", VisitState.RUNNING)]), now=0)
    assert [(e.visit, e.kind) for e in effects if isinstance(e, Lose)] == [(3, Kind.RAYLET_LOST)]


def test_plan_with_a_host_that_left_the_pool_gives_its_visit_up():
    effects = plan(world([block()], [host("other")], [OpenVisit(3, 1, "x", "gone", VisitState.RUNNING)]), now=0)
    assert [e.visit for e in effects if isinstance(e, Lose)] == [3]


def test_plan_with_a_lost_visit_that_is_alive_takes_it_back():
    alive = host(state=HostState.BUSY, alive=frozenset({3}))
    lost = OpenVisit(3, 1, "x", "h", VisitState.LOST)
    assert plan(world([block()], [alive], [lost]), now=0) == [TakeBack(3, "h")]


def test_plan_with_a_host_that_obeys_another_ledger_gives_its_visit_up():
    held = host(state=HostState.HELD, reason="held by ann")
    effects = plan(world([block()], [held], [OpenVisit(3, 1, "x", "h", VisitState.RUNNING)]), now=0)
    assert effects == [Lose(3, "h", Kind.HOST_LOST, "h: held by ann")]


def test_plan_with_a_drained_host_gives_up_a_visit_it_never_began_and_keeps_one_it_runs():
    def losses(alive):
        drained = host(state=HostState.DRAINED, reason="drained by ann", alive=frozenset(alive))
        effects = plan(world([block()], [drained], [OpenVisit(3, 1, "x", "h", VisitState.LEASED)]), now=0)
        return [(e.visit, e.why) for e in effects if isinstance(e, Lose)]

    assert losses([]) == [(3, "h starts nothing: drained by ann")]
    assert losses([3]) == []


@pytest.mark.parametrize(
    ("state", "is_done", "given_up"),
    [(VisitState.RUNNING, True, [3]), (VisitState.RUNNING, False, []), (VisitState.LEASED, True, [])],
)
def test_plan_with_a_host_that_has_told_all_gives_up_a_visit_whose_end_it_did_not_tell(state, is_done, given_up):
    effects = plan(world([block()], [host(is_done=is_done)], [OpenVisit(3, 1, "x", "h", state)]), now=0)
    assert [e.visit for e in effects if isinstance(e, Lose)] == given_up


def test_plan_with_a_lost_host_on_a_shared_machine_does_not_hold_up_the_others():
    silent = host("a", machine="m", state=HostState.UNKNOWN, loss=Kind.HOST_LOST, alive=frozenset({9}))
    assert assigned(plan(world([block(1)], [silent, host("b", machine="m")]), now=0)) == [(1, "b")]


def test_plan_that_takes_a_visit_back_assigns_neither_its_block_nor_its_host():
    hosts = [host("a", state=HostState.BUSY, alive=frozenset({3})), host("b")]
    lost = OpenVisit(3, 1, "x", "a", VisitState.LOST)
    assert plan(world([block(1), block(2)], hosts, [lost], exclusive=False), now=0) == [
        TakeBack(3, "a"),
        Assign(block(2), "b", (0, 1)),
    ]


def test_plan_with_a_lost_visit_its_lost_host_last_said_to_be_alive_leaves_it():
    silent = host(state=HostState.UNKNOWN, loss=Kind.HOST_LOST, alive=frozenset({3}))
    assert plan(world([block()], [silent], [OpenVisit(3, 1, "x", "h", VisitState.LOST)]), now=0) == []


def test_plan_with_a_lost_visit_whose_block_is_measured_elsewhere_leaves_it():
    alive = host("a", state=HostState.BUSY, alive=frozenset({3}))
    visits = [OpenVisit(3, 1, "x", "a", VisitState.LOST), OpenVisit(4, 1, "x", "b", VisitState.RUNNING)]
    assert plan(world([block()], [alive, host("b", state=HostState.BUSY)], visits), now=0) == []


def test_plan_with_a_host_to_be_set_aside_quarantines_it_and_assigns_it_nothing():
    (quarantine,) = plan(world([block()], [host(set_aside="the runner died")]), now=0)
    assert quarantine == Quarantine("h", "the runner died")


def test_plan_with_a_host_that_failed_two_jobs_which_passed_elsewhere_quarantines_it():
    def with_jobs(*jobs):
        asked = world([], [host()])
        return plan(asked._replace(ledger=asked.ledger._replace(blamed={"h": frozenset(jobs)})), now=0)

    assert with_jobs("a") == [Finish()]
    (quarantine,) = with_jobs("a", "b")
    assert quarantine == Quarantine("h", "2 jobs failed there that passed elsewhere")


def test_plan_with_a_host_that_cannot_be_set_aside_now_waits_for_it():
    assert plan(world([block()], [host(state=HostState.UNKNOWN, set_aside="bad")]), now=0) == []


def test_plan_when_the_first_jobs_fail_alike_pauses_and_assigns_nothing():
    alike = series(verdicts=[Kind.COMPILE_ERROR] * 3, failed={"a", "b", "c"})
    effects = plan(world([block()], [host()], all_series=[alike]), now=0)
    assert [e.experiment for e in effects if isinstance(e, Pause)] == ["x"]
    assert assigned(effects) == []


def test_plan_when_more_jobs_than_the_first_fail_alike_at_once_pauses_too():
    alike = series(verdicts=[Kind.USER_ERROR] * 6, failed={"a", "b", "c"})
    effects = plan(world([block()], [host()], all_series=[alike]), now=0)
    assert [e.series for e in effects if isinstance(e, Pause)] == [1]
    assert "change them in the matrix" in effects[0].why


def test_plan_of_a_series_that_was_paused_for_it_before_goes_on():
    alike = series(verdicts=[Kind.USER_ERROR] * 3, failed={"a", "b", "c"})._replace(alarmed=True)
    assert assigned(plan(world([block()], [host()], all_series=[alike]), now=0)) == [(1, "h")]


def test_plan_when_the_first_jobs_fail_differently_goes_on():
    mixed = series(verdicts=[Kind.COMPILE_ERROR, None, Kind.COMPILE_ERROR], failed={"a", "c"})
    assert assigned(plan(world([block()], [host()], all_series=[mixed]), now=0)) == [(1, "h")]


def test_plan_with_nothing_open_finishes():
    assert plan(world([], [host()]), now=0) == [Finish()]


def test_plan_with_only_paused_work_finishes_and_says_so():
    (finish,) = plan(world([block()], [host()], all_series=[series(paused="lunch")]), now=0)
    assert isinstance(finish, Finish)
    assert "lunch" in finish.paused
    assert "resume" in finish.paused


def test_plan_without_a_usable_host_gives_up_after_ten_minutes_and_says_why():
    def waiting(now):
        gone = host(state=HostState.QUARANTINED, reason="busy")
        return plan(world([block()], [gone], unusable_since=0.0), now=now)

    assert waiting(599) == []
    (finish,) = waiting(600)
    assert isinstance(finish, Finish)
    assert "quarantined" in finish.blocked
    assert "busy" in finish.blocked


def test_plan_outside_its_scope_touches_nothing():
    assert plan(world([block()], [host()], scope=frozenset({"y"})), now=0) == [Finish()]


def test_plan_while_stopping_assigns_nothing():
    assert plan(world([block()], [host()], stopping=True), now=0) == [Finish()]


def test_plan_with_a_block_whose_arms_all_failed_closes_it():
    effects = plan(world([block()], [host()], all_series=[series(failed={"arm"})]), now=0)
    assert [e.block for e in effects if isinstance(e, Close)] == [1]


def test_runnable_without_its_reference_runs_an_arm_once_only():
    assert [a.slot for a in runnable(PAIR, series(failed={"ref"}))] == [1]
    assert runnable(PAIR, series(failed={"ref"}, measured={"arm"})) == ()


def test_runnable_with_a_reference_alone_in_its_group_runs_it():
    assert [a.slot for a in runnable((Arm(0, "only", 0),), series())] == [0]


@given(st.integers(1, 16), st.integers(0, 40))
def test_order_over_two_blocks_gives_every_arm_the_same_mean_position(arms, pair):
    slots = [Arm(i, str(i), 0) for i in range(arms)]
    even, odd = order(slots, 2 * pair), order(slots, 2 * pair + 1)
    assert {even.index(i) + odd.index(i) for i in range(arms)} == {arms - 1}


def test_order_over_blocks_rotates():
    slots = [Arm(i, str(i), 0) for i in range(4)]
    assert [order(slots, b) for b in range(4)] == [(0, 1, 2, 3), (3, 2, 1, 0), (1, 2, 3, 0), (0, 3, 2, 1)]


# -- its effects, folded into the world as the shell and the desks do

NAMES = ("a", "b", "c", "d")
BLOCKS = (1, 2, 3, 4, 5)
REASONS = st.sampled_from(["", "", "", "why"])


@st.composite
def hosts_of_a_pool(draw):
    """As desks show them: a host that is lost is unknown, or set aside as it was."""
    hosts = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        loss = draw(st.none() | st.sampled_from([Kind.HOST_LOST, Kind.PREEMPTED]))
        states = [HostState.UNKNOWN, HostState.QUARANTINED] if loss else list(HostState)
        hosts.append(
            host(
                name,
                machine=draw(st.sampled_from(["m", "n"])),
                state=draw(st.sampled_from(states)),
                alive=frozenset(draw(st.sets(st.integers(1, 6), max_size=1))),
                loss=loss,
                set_aside=draw(REASONS),
                not_before=draw(st.sampled_from([0.0, 0.0, 99.0])),
            )
        )
    return hosts


@st.composite
def visits_of_a_ledger(draw):
    """At most one open visit of a block and of a host, as the database keeps it; `gone` has left the pool."""
    visits, open_blocks, open_hosts = [], set(), set()
    for number in range(1, draw(st.integers(0, 6)) + 1):
        on, name = draw(st.sampled_from(BLOCKS)), draw(st.sampled_from((*NAMES, "gone")))
        state = draw(st.sampled_from([VisitState.LEASED, VisitState.RUNNING, VisitState.LOST]))
        if state is not VisitState.LOST:
            if on in open_blocks or name in open_hosts:
                continue
            open_blocks.add(on)
            open_hosts.add(name)
        visits.append(OpenVisit(number, on, "x", name, state))
    return visits


@st.composite
def worlds(draw):
    alike = draw(st.sampled_from([(), (Kind.COMPILE_ERROR,) * 3]))
    failed = draw(st.sets(st.sampled_from(["ref", "arm"])))
    ambiguous = draw(st.dictionaries(st.sampled_from(["ref", "arm"]), st.lists(st.sampled_from(NAMES), max_size=2)))
    of_it = series(paused=draw(st.none() | st.just("lunch")), verdicts=alike, failed=failed)
    blamed = draw(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(["j", "k"])).map(frozenset)))
    asked = world(
        [block(id, avoid=draw(st.none() | st.sampled_from(NAMES))) for id in BLOCKS],
        draw(hosts_of_a_pool()),
        draw(visits_of_a_ledger()),
        [of_it._replace(ambiguous=ambiguous)],
        stopping=draw(st.booleans()),
        exclusive=draw(st.booleans()),
        unusable_since=draw(st.none() | st.just(-1000.0)),
    )
    return asked._replace(ledger=asked.ledger._replace(blamed=blamed))


def folded(world, effect):
    """The world after an effect. Nothing else happens."""
    ledger, hosts = world.ledger, dict(world.hosts)

    def with_visit(id, state):
        return tuple(v._replace(state=state) if v.id == id else v for v in ledger.visits)

    match effect:
        case Lose(visit=id):
            ledger = ledger._replace(visits=with_visit(id, VisitState.LOST))
        case TakeBack(visit=id):
            ledger = ledger._replace(visits=with_visit(id, VisitState.RUNNING))
        case Assign(block=given, host=name):
            number = max((v.id for v in ledger.visits), default=0) + 1
            leased = OpenVisit(number, given.id, given.experiment, name, VisitState.LEASED)
            ledger = ledger._replace(visits=(*ledger.visits, leased))
        case Close(block=id):
            ledger = ledger._replace(blocks=tuple(b for b in ledger.blocks if b.id != id))
        case Quarantine(host=name):
            hosts[name] = hosts[name]._replace(state=HostState.QUARANTINED, set_aside="")
        case Pause(series=id, why=why):
            paused = ledger.series[id]._replace(paused=why, alarmed=True)
            ledger = ledger._replace(series={**ledger.series, id: paused})
        case _:
            raise AssertionError(effect)
    return world._replace(ledger=ledger, hosts=hosts)


@given(worlds())
def test_plan_whose_effects_are_done_soon_has_nothing_more_to_say(asked):
    for _ in range(10):
        effects = plan(asked, now=0)
        if not effects or isinstance(effects[-1], Finish):
            assert len(effects) <= 1
            return
        for effect in effects:
            asked = folded(asked, effect)
        taken = [v for v in asked.ledger.visits if v.state is not VisitState.LOST]
        assert len(taken) == len({v.block for v in taken}) == len({v.host for v in taken})
    raise AssertionError(f"it goes on: {effects}")


# -- the code of commits

OLD = "0" * 40


def of_old_code(id=1):
    return block(id)._replace(codes={"ref": OLD})


def test_plan_for_a_block_of_a_commit_puts_its_code_there_and_assigns_it_then():
    assert plan(world([of_old_code()], [host()]), now=0) == [Place("h", (OLD,))]
    for exclusive in (True, False):
        assert plan(world([of_old_code()], [host(placing=True)], exclusive=exclusive), now=0) == []
    assert assigned(plan(world([of_old_code()], [host(codes=frozenset({OLD}))]), now=0)) == [(1, "h")]


def test_plan_while_code_is_on_its_way_times_nothing_on_that_machine_and_goes_on_elsewhere():
    hosts = [host("a", machine="m", placing=True), host("b", machine="m"), host("c")]
    assert assigned(plan(world([block(1), block(2)], hosts), now=0)) == [(1, "c")]


def test_plan_with_code_that_did_not_arrive_takes_another_host_and_leaves_the_host_its_other_blocks():
    hosts = [host("a", unplaced={OLD: Unplaced("the disk is full", 5.0)}), host("b", codes=frozenset({OLD}))]
    assert assigned(plan(world([of_old_code(1), block(2)], hosts), now=4.9)) == [(1, "b"), (2, "a")]
    # it is tried again in its time, and is never preferred
    assert assigned(plan(world([of_old_code(1), block(2)], hosts), now=5.0)) == [(1, "b"), (2, "a")]
    assert plan(world([of_old_code(1)], hosts[:1]), now=4.9) == []
    assert plan(world([of_old_code(1)], hosts[:1]), now=5.0) == [Place("a", (OLD,))]


def test_plan_whose_code_arrives_nowhere_gives_up_when_no_host_is_usable_for_long():
    stuck = host(unplaced={OLD: Unplaced("the disk is full", 700.0)})
    assert not stuck.is_usable_for([of_old_code()])
    assert stuck.is_usable_for([of_old_code(), block(2)])
    (finish,) = plan(world([of_old_code()], [stuck], unusable_since=0.0), now=600.0)
    assert finish.blocked.startswith("no usable host for 10 minutes: h is ready (the code of commit 000000000000 is")
    assert "not there: the disk is full)" in finish.blocked
    # what is being tried may yet succeed
    assert plan(world([of_old_code()], [stuck._replace(placing=True)], unusable_since=0.0), now=600.0) == []


def test_plan_without_the_arms_of_a_commit_needs_no_code_of_it():
    failed = series(failed={"arm"}, measured={"ref"})
    three = block(arms=(*PAIR, Arm(2, "other", 0)))._replace(codes={"arm": OLD})
    assert assigned(plan(world([three], [host()], all_series=[failed]), now=0)) == [(1, "h")]
