"""The host's rules, one by one, with a clock and processes that are turned by hand and a real spool."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.events import Probed, Rung, VisitBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.protocol import Alive, Answer, Call, Controller, HostHeld, Mode, Observation
from core.visit import Phase, Slot, Visit
from workers.host.duty import Duty
from workers.host.recovery import open_spool
from workers.host.spool import Spool
from workers.supervisor import Stop
from workers.sync import STALLED_S, SyncHost

ORPHAN_S = 30.0
CLEAN = Probed(clean=True)
BUSY = Probed(clean=False, kind=Kind.TPU_BUSY, reason="pid 7 has it")
ANN = Controller(user="ann", machine="desk", pid=7)


class FakeLock:
    def __init__(self) -> None:
        self.held = False
        self.taken_by: HostHeld | None = None

    def acquire(self, _controller: Controller, _since: str) -> HostHeld | None:
        if self.taken_by is None:
            self.held = True
        return self.taken_by

    def release(self) -> None:
        self.held = False


class FakeExecution:
    def __init__(self, visit: int, spool: Spool) -> None:
        self.visit = visit
        self.spool = spool
        self.stops: list[Stop] = []

    def stop(self, why: Stop) -> None:
        self.stops.append(why)

    def alive(self) -> Alive:
        return Alive(visit=self.visit, slot=0, phase=Phase.MEASURE, ended_slots=0, phase_s=1.0)


class Host:
    """A SyncHost and its surroundings. Its disk does everything at once."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.now = 1000.0
        self.lock = FakeLock()
        self.executions: list[FakeExecution] = []
        self.ladders = 0
        self.core = SyncHost("host", ORPHAN_S, self.lock, self)
        self._generation = 0

    def wall_clock(self) -> str:
        return "noon"

    def open_spool(self, ledger_id: str) -> Spool:
        return open_spool(self.state / ledger_id, lambda: 0, end=lambda _: [])

    def on_disk(self, change: Callable[[], None]) -> None:
        change()

    def recover(self) -> None:
        self.ladders += 1

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> FakeExecution:
        spool.begin(visit.visit, order, "sitting")
        self.executions.append(FakeExecution(visit.visit, spool))
        return self.executions[-1]

    # -- what tests do

    def call(self, *visits: int, **fields) -> Call:
        self._generation += 1
        desired = tuple(
            Visit(visit=visit, slots=(Slot(slot=0, job=SelftestJob()),), iters=1, warmup=0) for visit in visits
        )
        given = {"ledger_id": "one", "epoch": 1, "generation": self._generation, "controller": ANN} | fields
        if "spool_id" not in given:
            given["spool_id"] = self.spool(str(given["ledger_id"]))
        return Call(desired=desired, **given)

    def spool(self, ledger_id: str) -> str | None:
        path = self.state / ledger_id / "id"
        return path.read_text() if path.exists() else None

    def send(self, call: Call) -> Observation | None:
        return self.core.claim(call, self.now) or self.core.obey(call, self.now)

    def sync(self, *visits: int, **fields) -> Observation:
        """A call and its answer, however long it waits."""
        call = self.call(*visits, **fields)
        return self.send(call) or self.core.heartbeat(call)

    def meet(self) -> None:
        """The first call of a ledger, which tells it the spool."""
        assert self.sync(spool_id=None).answer is Answer.OTHER_SPOOL

    def end(self, state: str = "finished") -> None:
        execution = self.executions[-1]
        execution.spool.append(execution.visit, [VisitEnded(state=state)])
        self.core.ended()

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.core.tick(self.now)

    def restarted(self) -> "Host":
        """Another actor on the same state."""
        host = Host(self.state)
        host._generation = self._generation
        host.now = self.now
        return host

    @property
    def started(self) -> list[int]:
        return [execution.visit for execution in self.executions]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.meet()
    return host


def bodies(reply: Observation) -> list[type]:
    return [type(entry.body) for entry in reply.entries]


# -- order


def test_call_older_than_one_obeyed_is_stale_and_changes_nothing(host: Host) -> None:
    old = host.call()
    host.sync(5)
    reply = host.send(old)
    assert reply is not None
    assert reply.answer is Answer.STALE
    assert host.executions[0].stops == []


def test_call_delivered_twice_is_stale_the_second_time(host: Host) -> None:
    call = host.call()
    assert host.send(call) is None
    reply = host.send(call)
    assert reply is not None
    assert reply.answer is Answer.STALE
    assert host.core.poll(call) is None


def test_call_of_an_older_epoch_is_stale_whatever_its_generation(host: Host) -> None:
    host.sync(5, epoch=2, generation=1)
    assert host.sync(epoch=1, generation=99).answer is Answer.STALE
    assert host.executions[0].stops == []


def test_call_that_waits_is_stale_when_a_newer_one_came(host: Host) -> None:
    waiting = host.call()
    assert host.send(waiting) is None
    host.sync()
    reply = host.core.poll(waiting)
    assert reply is not None
    assert (reply.answer, reply.order) == (Answer.STALE, waiting.order)


def test_call_older_than_the_last_start_is_stale_to_the_next_actor(host: Host) -> None:
    old = host.call()
    host.sync(5)
    reply = host.restarted().send(old)
    assert reply is not None
    assert reply.answer is Answer.STALE


def test_call_that_is_stale_to_a_free_host_does_not_claim_it(host: Host) -> None:
    old = host.call()
    host.sync(mode=Mode.DRAIN)
    assert not host.lock.held
    reply = host.send(old)
    assert reply is not None
    assert reply.answer is Answer.STALE
    assert not host.lock.held


# -- once


def test_visit_desired_again_after_its_end_is_not_started_again(host: Host) -> None:
    host.sync(5)
    host.end()
    host.sync(5)
    assert host.started == [5]


def test_visit_of_a_dead_actor_is_reported_ended_and_not_started_again(host: Host) -> None:
    host.sync(5)
    again = host.restarted()
    reply = again.sync(5)
    assert bodies(reply) == [VisitBegan, VisitEnded]
    assert reply.entries[-1].body.kind is Kind.WORKER_LOST
    assert again.started == []
    assert reply.alive == ()


def test_visit_below_the_highest_begun_is_never_started(host: Host) -> None:
    host.sync(5)
    host.end()
    host.sync(4, 6)
    assert host.started == [5, 6]


# -- desired


def test_visit_no_longer_desired_is_cancelled(host: Host) -> None:
    host.sync(5)
    host.sync()
    assert host.executions[0].stops == [Stop.CANCELLED]


def test_visit_waits_until_the_one_before_has_ended(host: Host) -> None:
    host.sync(6, 5)
    assert host.started == [5]
    host.sync(6)
    assert host.started == [5]
    host.end("cancelled")
    assert host.started == [5, 6]


def test_visit_is_told_alive_with_its_progress(host: Host) -> None:
    reply = host.sync(5)
    (alive,) = reply.alive
    assert (alive.visit, alive.phase) == (5, Phase.MEASURE)


# -- spool


def test_call_that_names_another_spool_changes_nothing_and_learns_the_right_one(host: Host) -> None:
    host.sync(5)
    reply = host.sync(spool_id="another")
    assert (reply.answer, reply.spool_id) == (Answer.OTHER_SPOOL, host.spool("one"))
    assert reply.entries == ()
    assert host.executions[0].stops == []


def test_call_that_names_no_spool_starts_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.sync(5, spool_id=None).answer is Answer.OTHER_SPOOL
    assert host.started == []


def test_call_gets_the_lines_after_what_it_acknowledges(host: Host) -> None:
    assert [entry.seq for entry in host.sync(5).entries] == [1]
    host.end()
    reply = host.sync(5, acked_seq=1)
    assert [entry.seq for entry in reply.entries] == [2]
    assert reply.last_seq == 2
    assert host.sync(5, acked_seq=2).entries == ()


def test_call_that_acknowledges_lines_that_never_were_gets_another_spool(host: Host) -> None:
    before = host.spool("one")
    reply = host.sync(5, acked_seq=7)
    assert reply.answer is Answer.OTHER_SPOOL
    assert reply.spool_id == host.spool("one") != before
    assert host.started == []


def test_call_waits_while_there_is_nothing_to_say(host: Host) -> None:
    call = host.call()
    assert host.send(call) is None
    assert host.core.poll(call) is None
    reply = host.core.heartbeat(call)
    assert (reply.answer, reply.entries, reply.order) == (Answer.OBEYED, (), call.order)


def test_host_with_a_broken_spool_drains_and_takes_visits_again_when_recovered(host: Host) -> None:
    host.sync(5)
    spool = host.executions[0].spool
    spool.broken = "the disk is full"
    host.end()
    reply = host.sync(6)
    assert reply.draining == "the disk is full"
    assert host.started == [5]
    assert host.sync(6, mode=Mode.RECOVER).draining == ""
    host.core.recovered(CLEAN)
    host.sync(6)
    assert host.started == [5, 6]


# -- modes


def test_mode_drain_lets_the_desired_visit_finish_and_starts_no_other(host: Host) -> None:
    host.sync(5)
    reply = host.sync(5, 6, mode=Mode.DRAIN)
    assert reply.draining == "asked to drain"
    assert host.executions[0].stops == []
    host.end()
    assert host.started == [5]


def test_mode_recover_climbs_the_ladder_once_a_stay_and_starts_nothing(host: Host) -> None:
    for _ in range(3):
        reply = host.sync(5, mode=Mode.RECOVER)
        assert (reply.mode, reply.recovering, reply.probe) == (Mode.RECOVER, True, None)
    host.core.recovered(BUSY)
    reply = host.sync(5, mode=Mode.RECOVER)
    assert (reply.recovering, reply.probe) == (False, BUSY)
    assert (host.ladders, host.started) == (1, [])
    reply = host.sync(5)
    assert (reply.mode, host.started) == (Mode.RUN, [5])
    host.end()
    assert host.sync(mode=Mode.RECOVER).recovering
    assert host.ladders == 2


def test_mode_recover_waits_for_the_end_of_the_visit_that_runs(host: Host) -> None:
    host.sync(5)
    assert host.sync(5, mode=Mode.RECOVER).recovering
    assert host.ladders == 0
    assert host.executions[0].stops == []
    host.end()
    assert host.ladders == 1
    assert host.sync(5, mode=Mode.RECOVER).recovering


def test_mode_recover_left_before_its_ladder_began_leaves_it_out(host: Host) -> None:
    host.sync(5)
    host.sync(5, mode=Mode.RECOVER)
    assert not host.sync(5).recovering
    host.end()
    assert host.ladders == 0


def test_mode_recover_left_while_climbing_starts_nothing_before_the_ladder_ends(host: Host) -> None:
    host.sync(mode=Mode.RECOVER)
    reply = host.sync(5)
    assert (reply.mode, reply.recovering, host.started) == (Mode.RUN, True, [])
    host.core.recovered(CLEAN)
    assert host.started == [5]
    assert host.ladders == 1


def test_mode_recover_of_the_next_owner_climbs_again(host: Host) -> None:
    host.sync(mode=Mode.RECOVER)
    host.core.recovered(CLEAN)
    host.pass_time(ORPHAN_S + 1)
    host.sync(ledger_id="two", spool_id=None)
    host.sync(ledger_id="two", mode=Mode.RECOVER)
    assert host.ladders == 2


def test_ladder_keeps_the_host_from_drain_and_orphan_clock_until_its_end(host: Host) -> None:
    host.sync(mode=Mode.RECOVER)
    host.sync(mode=Mode.DRAIN)
    host.pass_time(ORPHAN_S + 1)
    assert host.lock.held
    assert not host.core.is_idle
    host.core.recovered(CLEAN)
    host.pass_time(1)
    assert not host.lock.held


def test_ladder_tells_the_owner_every_rung_and_its_end(host: Host) -> None:
    host.sync(mode=Mode.RECOVER)
    rung = Rung(step="holders", good=True)
    host.core.climbed(rung)
    host.core.recovered(BUSY)
    reply = host.sync(mode=Mode.RECOVER)
    assert [(entry.visit, entry.body) for entry in reply.entries] == [(None, rung), (None, BUSY)]


def test_ladder_climbed_for_a_person_starts_nothing_and_tells_the_owner(host: Host) -> None:
    assert host.core.climb() == ""
    assert "already" in host.core.climb()
    assert host.sync(5).recovering
    assert host.started == []
    host.core.recovered(CLEAN)
    assert host.started == [5]
    assert bodies(host.sync(5))[0] is Probed
    assert "visit 5 runs" in host.core.climb()
    assert host.ladders == 1


# -- probes


def test_probe_that_turns_is_told_and_one_that_does_not_is_not(host: Host) -> None:
    for seen in (CLEAN, CLEAN, BUSY, BUSY, CLEAN):
        host.core.probed(seen)
    reply = host.sync()
    assert [(entry.visit, entry.body) for entry in reply.entries] == [(None, BUSY), (None, CLEAN)]
    assert reply.probe == CLEAN


def test_probe_of_a_visit_is_told_by_the_visit_alone(host: Host) -> None:
    host.sync(5)
    host.core.probed(BUSY)
    host.end("failed")
    host.core.probed(BUSY)
    assert bodies(host.sync(5)) == [VisitBegan, VisitEnded]


def test_probe_that_was_unclean_before_the_owner_came_is_told_to_it(host: Host) -> None:
    host.core.probed(BUSY)
    host.sync(mode=Mode.DRAIN, acked_seq=1)
    host.sync(ledger_id="two", spool_id=None)
    host.core.probed(BUSY)
    assert bodies(host.sync(ledger_id="two")) == [Probed]


# -- a person


def test_host_drained_by_hand_finishes_its_visit_and_says_why_to_every_ledger(host: Host) -> None:
    host.sync(5)
    host.core.set_duty(Duty("drained by bob", 3))
    assert host.sync(5, 6).draining == "drained by bob"
    assert host.executions[0].stops == []
    assert host.sync(ledger_id="two", spool_id=None).draining == "drained by bob"
    host.end()
    assert host.started == [5]
    host.core.set_duty(Duty("", 4))
    assert host.started == [5, 6]
    reply = host.sync(6)
    assert (reply.draining, reply.releases) == ("", 4)


def test_host_drained_by_its_owner_says_so_to_no_other_ledger(host: Host) -> None:
    host.sync(5)
    assert host.sync(5, mode=Mode.DRAIN).draining == "asked to drain"
    assert host.sync(ledger_id="two", spool_id=None).draining == ""


# -- gone


def test_host_about_to_be_taken_away_finishes_its_visit_starts_no_other_and_says_why_to_every_ledger(
    host: Host,
) -> None:
    host.sync(5)
    host.core.preempted("it goes away")
    gone = Probed(clean=False, kind=Kind.PREEMPTED, reason="it goes away")
    reply = host.sync(5, 6)
    assert (reply.draining, reply.probe, host.executions[0].stops) == ("it goes away", gone, [])
    assert [(entry.visit, entry.body) for entry in reply.entries][-1] == (None, gone)
    other = host.sync(ledger_id="two", spool_id=None)
    assert (other.draining, other.probe) == ("it goes away", gone)
    host.end()
    assert host.started == [5]


def test_host_about_to_be_taken_away_stays_so_whatever_is_seen_said_or_done(host: Host) -> None:
    host.core.preempted("it goes away")
    host.core.probed(CLEAN)
    host.sync(mode=Mode.RECOVER)
    host.core.recovered(CLEAN)
    host.core.set_duty(Duty("", 1))
    reply = host.sync(5)
    assert (reply.draining, host.started) == ("it goes away", [])
    assert reply.probe is not None
    assert reply.probe.kind is Kind.PREEMPTED
    assert CLEAN not in [entry.body for entry in reply.entries]


def test_condition_tells_who_has_the_host_and_what_runs(host: Host) -> None:
    host.sync(5)
    host.core.probed(CLEAN)
    seen = host.core.condition
    assert seen.held == HostHeld(user="ann", controller="desk:7", since="noon")
    assert [alive.visit for alive in seen.alive] == [5]
    assert (seen.probe, seen.draining) == (CLEAN, "")


# -- owner


def test_call_of_another_ledger_is_told_who_owns_the_host(host: Host) -> None:
    reply = host.sync(9, ledger_id="two", spool_id=None)
    assert reply.answer is Answer.HELD
    assert reply.held == HostHeld(user="ann", controller="desk:7", since="noon")
    assert (reply.spool_id, reply.entries) == ("", ())
    assert host.started == []


def test_call_on_a_host_locked_by_another_actor_is_told_who_has_it(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.lock.taken_by = HostHeld(user="bob", controller="laptop:8", since="morning")
    reply = host.sync(5)
    assert (reply.answer, reply.held) == (Answer.HELD, host.lock.taken_by)
    host.lock.taken_by = None
    host.meet()
    host.sync(5)
    assert host.started == [5]


def test_owner_that_drains_and_has_everything_lets_the_host_go(host: Host) -> None:
    host.sync(5)
    host.end()
    host.sync(mode=Mode.DRAIN)
    assert host.lock.held, "not before its lines are acknowledged"
    host.sync(mode=Mode.DRAIN, acked_seq=2)
    assert not host.lock.held
    assert host.sync(ledger_id="two", spool_id=None).answer is Answer.OTHER_SPOOL


def test_owner_that_drains_with_a_visit_keeps_the_host(host: Host) -> None:
    host.sync(5)
    host.sync(5, mode=Mode.DRAIN, acked_seq=1)
    assert host.lock.held


def test_owner_silent_for_orphan_s_lets_the_host_go(host: Host) -> None:
    host.pass_time(ORPHAN_S)
    assert host.lock.held
    host.pass_time(1)
    assert not host.lock.held


def test_owner_that_comes_back_finds_its_spool(host: Host) -> None:
    host.sync(5)
    host.end()
    host.pass_time(ORPHAN_S + 2)
    assert host.sync(9, ledger_id="two", spool_id=None).answer is Answer.OTHER_SPOOL
    host.pass_time(ORPHAN_S + 2)
    assert bodies(host.sync(5)) == [VisitBegan, VisitEnded]
    assert host.started == [5]


def test_call_of_the_former_owner_that_still_waits_learns_nothing_of_the_next(host: Host) -> None:
    waiting = host.call()
    assert host.send(waiting) is None
    host.pass_time(ORPHAN_S + 2)
    host.sync(ledger_id="two", spool_id=None)
    reply = host.core.poll(waiting)
    assert reply is not None
    assert (reply.answer, reply.spool_id) == (Answer.STALE, "")


def test_open_spool_that_fails_leaves_the_host_free(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "started").write_text("{")
    host.sync(mode=Mode.DRAIN)
    with pytest.raises(ValueError, match="state directory"):
        host.sync(ledger_id="bad", spool_id=None)
    assert not host.lock.held


# -- orphan clock


def test_orphan_clock_stops_the_visit_and_starts_no_other(host: Host) -> None:
    host.sync(5, 6)
    host.pass_time(ORPHAN_S)
    assert host.executions[0].stops == []
    host.pass_time(1)
    assert host.executions[0].stops == [Stop.ORPHANED]
    host.end("failed")
    assert host.started == [5]
    host.pass_time(1)
    assert not host.lock.held


def test_orphan_clock_begins_anew_with_a_call(host: Host) -> None:
    host.sync(5)
    host.pass_time(ORPHAN_S - 1)
    host.sync(5)
    host.pass_time(ORPHAN_S - 1)
    assert host.executions[0].stops == []


def test_orphan_clock_is_not_fed_by_stale_calls_or_other_ledgers(host: Host) -> None:
    old = host.call()
    host.sync(5)
    for _ in range(int(ORPHAN_S) + 1):
        host.pass_time(1)
        host.send(old)
        host.sync(ledger_id="two", spool_id=None)
    assert host.executions[0].stops[0] is Stop.ORPHANED


def test_orphan_clock_is_not_judged_right_after_the_actor_was_stopped(host: Host) -> None:
    host.sync(5)
    host.pass_time(1)
    host.now += ORPHAN_S + STALLED_S
    host.core.tick(host.now)
    assert host.executions[0].stops == []
    host.sync(5)
    host.pass_time(2)
    assert host.executions[0].stops == []
