"""One host as its controller sees it: only a clean probe of the present actor makes it usable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.events import Entry, HostFault, Probed
from core.failures import Kind
from core.lifecycle import HostState
from core.protocol import Alive, Answer, HostHeld, Mode, Observation
from core.visit import Phase, Target
from infra.pool import HostSpec
from orchestrator.desk import BACKOFF_S, FORGIVEN_S, QUARANTINE_CAP_S, QUARANTINE_S, REALLOCATE_S, Desk


def desk():
    return Desk(HostSpec(name="h", machine="m", target=Target(), selector={}))


def seen(answer=Answer.OBEYED, kind=None, alive=(), in_use=False, **fields):
    running = [Alive(visit=v, slot=None, phase=Phase.START, ended_slots=0, phase_s=0.0) for v in alive]
    probe = Probed(clean=kind is None, kind=kind, reason=f"because of {kind}" if kind else "", in_use=in_use)
    return Observation(host="h", epoch=1, generation=1, answer=answer, probe=probe, alive=running, **fields)


def ready():
    host = desk()
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY
    return host


def test_desk_at_first_is_unknown_until_a_clean_probe():
    host = desk()
    assert host.state is HostState.UNKNOWN
    host.on_observation(seen(kind=Kind.ENVIRONMENT_MISMATCH), now=0)
    assert (host.state, host.reason) == (HostState.PROBING, "because of environment_mismatch")
    host.on_observation(seen(), now=1)
    assert host.state is HostState.READY


def test_desk_of_a_host_knows_that_it_has_told_all_until_it_runs_something_again_or_is_gone():
    host = desk()
    entry = Entry(seq=1, at_ns=0, visit=None, body=HostFault(fault="f", detail=""))
    for said, is_done in (({}, True), ({"alive": [4]}, False), ({"entries": [entry]}, False), ({}, True)):
        host.on_observation(seen(**said), now=0)
        assert host.view().is_done is is_done
    host.on_down("its actor died")
    assert not host.view().is_done


def test_desk_of_a_host_that_nobody_can_ask_gives_the_newest_reason_and_is_not_lost():
    host = ready()
    for reason in ("nothing was heard", "its key has changed"):
        host.on_cut_off(reason)
        assert (host.state, host.reason, host.loss) == (HostState.SUSPECT, reason, None)


def test_desk_without_a_probe_yet_is_not_ready():
    host = desk()
    host.on_observation(seen().model_copy(update={"probe": None}), now=0)
    assert host.state is HostState.PROBING


def test_desk_follows_the_visits_its_host_executes():
    host = desk()
    host.on_observation(seen(alive=[4]), now=0)
    assert (host.state, host.alive) == (HostState.BUSY, {4})
    host.on_observation(seen(), now=0)
    assert (host.state, host.alive) == (HostState.READY, frozenset())


def test_desk_after_one_miss_is_suspect_and_after_an_answer_ready_again():
    host = ready()
    host.on_miss(None, reason="one call unanswered")
    assert host.state is HostState.SUSPECT
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY


def test_desk_of_a_lost_host_says_so_until_it_answers():
    host = ready()
    host.on_miss(Kind.HOST_LOST, reason="silent for 20 s")
    assert (host.state, host.view().loss) == (HostState.UNKNOWN, Kind.HOST_LOST)
    host.on_observation(seen(), now=0)
    assert (host.state, host.view().loss) == (HostState.READY, None)


def test_desk_of_a_dead_actor_forgets_what_it_said():
    host = desk()
    host.on_observation(seen(alive=[4]), now=0)
    host.on_down("the actor died")
    assert (host.state, host.alive) == (HostState.UNKNOWN, frozenset())


def test_desk_of_a_held_host_names_its_holder_and_goes_on_when_it_is_free():
    host = desk()
    held = HostHeld(user="ann", controller="lab:7", since="noon")
    host.on_observation(seen(Answer.HELD, held=held), now=0)
    assert host.state is HostState.HELD
    assert "ann" in host.reason
    assert "lab:7" in host.reason
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY


def test_desk_of_a_held_host_forgets_the_visits_it_had_for_us():
    host = desk()
    host.on_observation(seen(alive=[4]), now=0)
    host.on_observation(seen(Answer.HELD), now=1)
    assert (host.state, host.alive) == (HostState.HELD, frozenset())


def test_desk_of_a_draining_host_takes_no_work_and_comes_back():
    host = desk()
    host.on_observation(seen(draining="disk full", alive=[4]), now=0)
    assert (host.state, host.reason) == (HostState.DRAINING, "disk full")
    host.on_observation(seen(draining="disk full"), now=0)
    assert host.state is HostState.DRAINED
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY


# -- recovery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TPU_BUSY, Kind.DISK, Kind.INIT_HANG])
def test_desk_of_a_host_that_can_be_recovered_asks_for_it_until_the_ladder_is_climbed(kind):
    host = ready()
    host.on_observation(seen(kind=kind), now=0)
    assert (host.state, host.mode) == (HostState.RECOVERING, Mode.RECOVER)
    # an answer to a call from before, then one from the middle of the ladder: the probe is an old one
    host.on_observation(seen(), now=1)
    host.on_observation(seen(mode=Mode.RECOVER, recovering=True), now=2)
    assert host.state is HostState.RECOVERING
    host.on_observation(seen(mode=Mode.RECOVER), now=3)
    assert (host.state, host.mode) == (HostState.READY, Mode.RUN)


def test_desk_of_a_host_that_the_ladder_did_not_free_is_to_be_set_aside():
    host = ready()
    host.on_observation(seen(kind=Kind.TPU_BUSY), now=0)
    host.on_observation(seen(kind=Kind.TPU_BUSY, mode=Mode.RECOVER), now=1)
    assert host.view().set_aside == "not recovered: because of tpu_busy"
    assert host.mode is Mode.RUN


def test_desk_of_a_host_whose_visit_met_a_busy_accelerator_recovers_it_although_its_probe_is_clean():
    host = ready()
    host.on_visit_ended({Kind.TPU_BUSY}, "EBUSY", now=0)
    host.on_observation(seen(), now=0)
    assert (host.mode, host.not_before) == (Mode.RECOVER, BACKOFF_S[0])
    host.on_observation(seen(mode=Mode.RECOVER), now=1)
    assert (host.state, host.not_before) == (HostState.READY, 0.0)


def test_desk_of_a_host_that_still_runs_a_visit_recovers_it_afterwards():
    host = ready()
    host.on_visit_ended({Kind.INIT_HANG}, "no start", now=0)
    host.on_observation(seen(alive=[5]), now=0)
    assert host.state is HostState.BUSY
    host.on_observation(seen(), now=1)
    assert host.state is HostState.RECOVERING


def test_desk_of_an_actor_that_died_while_it_recovered_begins_again():
    host = ready()
    host.on_observation(seen(kind=Kind.TPU_BUSY), now=0)
    host.on_down("the actor died")
    host.on_observation(seen(kind=Kind.TPU_BUSY), now=1)
    assert host.state is HostState.RECOVERING


# -- faults and quarantine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.TPU_MISSING, Kind.CPU_FALLBACK, Kind.WRONG_DEVICE])
def test_desk_of_a_host_that_will_not_get_better_is_to_be_set_aside_at_once(kind):
    host = ready()
    host.on_visit_ended({kind}, f"{kind}!", now=0)
    assert host.view().set_aside == f"{kind}!"


def test_desk_backs_off_after_faults_and_sets_the_host_aside_after_three_in_quick_succession():
    host = ready()
    for number, wait in enumerate((BACKOFF_S[0], BACKOFF_S[1], BACKOFF_S[1])):
        assert host.view().set_aside == ""
        host.on_visit_ended({Kind.WORKER_LOST}, "died", now=10.0 * number)
        assert host.not_before == 10.0 * number + wait
    assert host.view().set_aside == "it failed again and again: died"


def test_desk_of_a_host_that_flaps_for_long_is_to_be_set_aside_although_it_works_in_between():
    host = ready()
    for number in range(4):
        assert host.view().set_aside == ""
        host.on_visit_lost("silent", now=300.0 * number)
        host.on_visit_ended((), "", now=300.0 * number + 100)
    assert host.view().set_aside


def test_desk_of_a_host_that_fails_twice_an_hour_stays_in_use():
    host = ready()
    for number in range(48):
        host.on_visit_lost("silent", now=1800.0 * number)
    assert host.view().set_aside == ""


@pytest.mark.parametrize("kind", [Kind.CRASH, Kind.NUMERICS, Kind.ORPHANED, Kind.CANCELLED])
def test_desk_never_counts_what_was_not_the_host_s_fault(kind):
    host = ready()
    for _ in range(9):
        host.on_visit_ended({kind}, "x", now=0)
    assert (host.view().set_aside, host.not_before) == ("", 0.0)


def test_desk_in_quarantine_is_released_by_a_clean_probe_after_its_time_which_doubles():
    host = ready()
    host.quarantine("three bad visits", now=0)
    host.on_observation(seen(), now=QUARANTINE_S - 1)
    assert (host.state, host.reason) == (HostState.QUARANTINED, "three bad visits")
    host.on_observation(seen(), now=QUARANTINE_S)
    assert host.state is HostState.READY
    host.quarantine("again", now=100)
    host.on_observation(seen(), now=100 + 2 * QUARANTINE_S - 1)
    assert host.state is HostState.QUARANTINED
    host.on_observation(seen(), now=100 + 2 * QUARANTINE_S)
    assert host.state is HostState.READY


def test_desk_after_a_quarantine_with_a_probe_that_is_not_clean_recovers_before_it_is_used():
    host = ready()
    host.quarantine("busy", now=0)
    host.on_observation(seen(kind=Kind.TPU_BUSY), now=QUARANTINE_S)
    assert host.state is HostState.RECOVERING


def test_desk_of_a_quarantined_host_whose_actor_dies_stays_quarantined():
    host = ready()
    host.quarantine("bad", now=0)
    host.on_down("the actor died")
    host.on_miss(Kind.RAYLET_LOST, "gone")
    assert host.state is HostState.QUARANTINED
    host.on_observation(seen(), now=1)
    assert host.state is HostState.QUARANTINED


def test_desk_doublings_of_quarantine_decay_and_end_at_a_cap():
    def lasts(host, now):
        host.quarantine("bad", now)
        host.on_observation(seen(), now + QUARANTINE_S - 1)
        assert host.state is HostState.QUARANTINED
        after = QUARANTINE_S
        while host.state is HostState.QUARANTINED:
            host.on_observation(seen(), now + after)
            after *= 2
        return after / 2

    host = ready()
    assert [lasts(host, 0) for _ in range(9)][-2:] == [QUARANTINE_CAP_S * 64 / 60, QUARANTINE_CAP_S * 64 / 60]
    assert lasts(host, 20 * FORGIVEN_S) == QUARANTINE_S


def test_desk_of_a_host_a_person_releases_takes_work_at_once():
    host = ready()
    host.quarantine("bad", now=0)
    host.on_observation(seen(releases=1), now=1)
    assert host.state is HostState.READY
    host.on_visit_ended({Kind.TPU_MISSING}, "no TPU", now=2)
    host.on_observation(seen(releases=2), now=2)
    assert (host.state, host.view().set_aside, host.not_before) == (HostState.READY, "", 0.0)
    host.quarantine("bad again", now=2)
    host.on_observation(seen(releases=2), now=2 + QUARANTINE_S)
    assert host.state is HostState.READY


def test_desk_that_first_hears_of_releases_of_long_ago_forgets_nothing():
    host = desk()
    host.on_visit_ended({Kind.TPU_MISSING}, "no TPU", now=0)
    host.on_observation(seen(releases=7), now=0)
    assert host.view().set_aside == "no TPU"
    host.on_observation(seen(releases=8), now=1)
    assert host.view().set_aside == ""


# -- taken away, replaced ---------------------------------------------------------------------------------------------


def unrecovered(now, in_use=False):
    """In quarantine, because the ladder did not free it."""
    host = ready()
    host.on_observation(seen(kind=Kind.TPU_BUSY), now)
    host.on_observation(seen(kind=Kind.TPU_BUSY, mode=Mode.RECOVER, in_use=in_use), now)
    host.quarantine(host.view().set_aside, now)
    host.on_observation(seen(kind=Kind.TPU_BUSY), now)
    assert host.state is HostState.QUARANTINED
    return host


@pytest.mark.parametrize("known", [Kind.HOST_LOST, Kind.RAYLET_LOST, Kind.SSH_UNREACHABLE])
def test_desk_of_a_host_that_said_it_would_be_taken_away_calls_its_loss_preempted(known):
    host = desk()
    host.on_observation(seen(kind=Kind.PREEMPTED, alive=[4], draining="it goes"), now=0)
    assert (host.state, host.alive) == (HostState.DRAINING, {4})
    host.on_miss(None, "one call unanswered")
    assert not host.needs_reallocation(now=1)
    host.on_miss(known, "silent")
    assert (host.view().loss, host.reason) == (Kind.PREEMPTED, "it was preempted: silent")


def test_desk_of_a_host_that_was_not_taken_away_after_all_calls_its_loss_what_it_is():
    host = desk()
    host.on_observation(seen(kind=Kind.PREEMPTED, draining="it goes"), now=0)
    host.on_observation(seen(), now=1)
    host.on_miss(Kind.HOST_LOST, "silent")
    assert (host.view().loss, host.reason) == (Kind.HOST_LOST, "silent")


def test_desk_of_a_host_needs_another_machine_when_the_ladder_has_failed_once_for_that_quarantine():
    host = unrecovered(now=0)
    assert host.needs_reallocation(now=0)
    host.on_reallocation(now=0)
    assert not host.needs_reallocation(now=0)
    assert not host.needs_reallocation(now=REALLOCATE_S)


def test_desk_of_a_host_whose_accelerator_somebody_else_uses_needs_no_other_machine():
    assert not unrecovered(now=0, in_use=True).needs_reallocation(now=0)


def test_desk_of_a_host_that_is_taken_away_needs_another_machine_when_it_is_gone():
    host = desk()
    host.on_observation(seen(kind=Kind.PREEMPTED, draining="it goes", alive=[4]), now=0)
    assert not host.needs_reallocation(now=0)
    host.on_miss(Kind.HOST_LOST, "silent")
    assert host.needs_reallocation(now=0)


@pytest.mark.parametrize("why", ["it failed again and again", "2 jobs failed there that passed elsewhere"])
def test_desk_of_a_host_set_aside_for_what_the_ladder_does_not_treat_needs_no_other_machine(why):
    host = ready()
    host.quarantine(why, now=0)
    assert not host.needs_reallocation(now=0)
    host.on_miss(Kind.HOST_LOST, "silent")
    assert not host.needs_reallocation(now=0)


def test_desk_of_a_host_that_the_next_ladder_frees_needs_no_other_machine_any_more():
    host = unrecovered(now=0)
    now = QUARANTINE_S
    host.on_observation(seen(kind=Kind.TPU_BUSY), now)
    host.on_observation(seen(mode=Mode.RECOVER), now)
    assert host.state is HostState.READY
    host.quarantine("it failed again and again", now)
    assert not host.needs_reallocation(now)


def test_desk_asks_for_machines_ever_more_seldom_until_a_person_releases_the_host():
    host = desk()
    now, waited = 0.0, []
    for _ in range(4):
        host.on_observation(seen(kind=Kind.PREEMPTED, draining="it goes"), now)
        host.on_miss(Kind.HOST_LOST, "silent")
        began = now
        while not host.needs_reallocation(now):
            now += REALLOCATE_S / 4
        waited.append(now - began)
        host.on_reallocation(now)
        host.on_reallocated()
    assert waited == [0.0, REALLOCATE_S, 2 * REALLOCATE_S, 4 * REALLOCATE_S]
    host.on_observation(seen(kind=Kind.PREEMPTED, draining="it goes", releases=1), now)
    host.on_miss(Kind.HOST_LOST, "silent")
    assert host.needs_reallocation(now)


def test_desk_of_a_replaced_host_knows_nothing_against_it():
    host = unrecovered(now=0)
    host.on_visit_ended({Kind.TPU_MISSING}, "no TPU", now=0)
    host.on_reallocation(now=0)
    host.on_reallocated()
    assert (host.state, host.reason, host.not_before) == (HostState.UNKNOWN, "its machine was replaced", 0.0)
    host.on_observation(seen(), now=1)
    assert (host.state, host.mode, host.view().set_aside) == (HostState.READY, Mode.RUN, "")


WHAT_HAPPENS = st.sampled_from(
    [
        lambda d: d.on_observation(seen(), 0),
        lambda d: d.on_observation(seen(alive=[1]), 0),
        lambda d: d.on_observation(seen(kind=Kind.TPU_BUSY), 0),
        lambda d: d.on_observation(seen(kind=Kind.TPU_BUSY, mode=Mode.RECOVER), 0),
        lambda d: d.on_observation(seen(mode=Mode.RECOVER, recovering=True), 0),
        lambda d: d.on_observation(seen(draining="x", alive=[1]), 0),
        lambda d: d.on_observation(seen(draining="x"), 0),
        lambda d: d.on_observation(seen(Answer.HELD), 0),
        lambda d: d.on_observation(seen().model_copy(update={"probe": None}), 0),
        lambda d: d.on_miss(None, "x"),
        lambda d: d.on_miss(Kind.HOST_LOST, "x"),
        lambda d: d.on_down("x"),
        lambda d: d.on_visit_ended({Kind.TPU_BUSY}, "x", 0),
        lambda d: d.on_visit_ended({Kind.TPU_MISSING}, "x", 0),
        lambda d: d.on_visit_lost("x", 0),
        lambda d: d.on_observation(seen(kind=Kind.PREEMPTED, draining="x"), 0),
        lambda d: d.on_reallocation(0),
        lambda d: d.on_reallocated(),
    ]
)


@given(st.lists(WHAT_HAPPENS, max_size=12))
def test_desk_whatever_happens_is_ready_only_after_a_clean_probe_and_recovers_only_when_idle(happened):
    host = desk()
    for happen in happened:
        happen(host)
    host.on_observation(seen(kind=Kind.TPU_BUSY), 0)
    assert host.state not in {HostState.READY, HostState.BUSY}
    host.on_observation(seen(alive=[1]), 0)
    assert host.state is not HostState.RECOVERING
