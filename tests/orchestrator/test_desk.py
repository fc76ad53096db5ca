"""One host as its controller sees it: only a clean probe of the present actor makes it usable."""

from core.events import Probed
from core.lifecycle import HostState
from core.protocol import Alive, Answer, HostHeld, Observation
from core.visit import Phase, Target
from infra.pool import HostSpec
from orchestrator.desk import BACKOFF_S, QUARANTINE_S, Desk
from orchestrator.plan import BAD_VISITS


def desk():
    return Desk(HostSpec(name="h", machine="m", target=Target(), selector={}))


def seen(answer=Answer.OBEYED, clean=True, alive=(), **fields):
    running = [Alive(visit=v, slot=None, phase=Phase.START, ended_slots=0, phase_s=0.0) for v in alive]
    probe = Probed(clean=clean, reason="" if clean else "busy")
    return Observation(host="h", epoch=1, generation=1, answer=answer, probe=probe, alive=running, **fields)


def test_desk_at_first_is_unknown_until_a_clean_probe():
    host = desk()
    assert host.state is HostState.UNKNOWN
    host.on_observation(seen(clean=False), now=0)
    assert (host.state, host.reason) == (HostState.PROBING, "busy")
    host.on_observation(seen(), now=1)
    assert host.state is HostState.READY


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
    host = desk()
    host.on_observation(seen(), now=0)
    host.on_miss(lost=False, reason="one call unanswered")
    assert host.state is HostState.SUSPECT
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY


def test_desk_of_a_lost_host_says_so_until_it_answers():
    host = desk()
    host.on_observation(seen(), now=0)
    host.on_miss(lost=True, reason="silent for 20 s")
    assert (host.state, host.view().lost) == (HostState.UNKNOWN, True)
    host.on_observation(seen(), now=0)
    assert (host.state, host.view().lost) == (HostState.READY, False)


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


def test_desk_of_a_draining_host_takes_no_work_and_comes_back():
    host = desk()
    host.on_observation(seen(draining="disk full", alive=[4]), now=0)
    assert (host.state, host.reason) == (HostState.DRAINING, "disk full")
    host.on_observation(seen(draining="disk full"), now=0)
    assert host.state is HostState.DRAINED
    host.on_observation(seen(), now=0)
    assert host.state is HostState.READY


def test_desk_backs_off_after_bad_visits_and_forgets_them_after_a_useful_one():
    host = desk()
    host.on_visit_ended(useful=False, reason="died", now=100)
    assert host.not_before == 100 + BACKOFF_S[0]
    host.on_visit_ended(useful=False, reason="died", now=200)
    assert host.not_before == 200 + BACKOFF_S[1]
    host.on_visit_ended(useful=True, reason="", now=300)
    assert host.view().bad_visits == 0


def test_desk_in_quarantine_is_released_by_a_clean_probe_after_its_time_which_doubles():
    host = desk()
    host.on_observation(seen(), now=0)
    host.quarantine("three bad visits", now=0)
    host.on_observation(seen(), now=QUARANTINE_S - 1)
    assert (host.state, host.reason) == (HostState.QUARANTINED, "three bad visits")
    host.on_observation(seen(clean=False), now=QUARANTINE_S)
    assert host.state is HostState.QUARANTINED
    host.on_observation(seen(), now=QUARANTINE_S)
    assert (host.state, host.bad_visits) == (HostState.READY, BAD_VISITS - 1)
    host.quarantine("again", now=QUARANTINE_S)
    assert host.not_before == 3 * QUARANTINE_S
