"""The rules of DESIGN §4 and their like, each with how it is switched off and what answers then.

A rule is switched off where it stands in the product, or where the simulation keeps it for the kernel or for Ray. What
answers is an invariant, the database, or a waste: more visits, more device seconds, more time until all is done.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from core import lifecycle
from core.events import Entry
from core.failures import Blame
from core.ledger.ingest import Ingested
from core.ledger.transaction import Transaction
from core.ledger.writer import Ledger
from core.lifecycle import HostState
from core.protocol import Call, Mode, Observation
from core.visit import Visit
from infra.pool import Policy
from orchestrator import controller, link, requests
from orchestrator.controller import Drive
from orchestrator.desk import Desk
from orchestrator.link import Ingest, Link, Replace
from orchestrator.plan import Effect, World, plan
from orchestrator.transport import HostDown
from tests.simulation import life
from tests.simulation.life import WatchedLedger
from tests.simulation.machine import Machine
from tests.simulation.network import Weather, Wire
from tests.simulation.schedule import Scenario
from workers import sync
from workers.host.spool import Spool, Started
from workers.sync import SyncHost

Patch = pytest.MonkeyPatch


class Rule(NamedTuple):
    """`off` switches it off. `scenario`: where it is needed. `answer`: how a violation begins, or what is wasted."""

    off: Callable[[Patch], None]
    scenario: Scenario
    answer: str


RULES: dict[str, Rule] = {}

ROUGH = (Weather(0.1, 0.1, 0.2),)
CALM_SEA = (Weather(),)
MANY = (10, 14)


def rule(answer: str, *faults: str, **scenario: Any) -> Callable[[Callable[[Patch], None]], None]:
    """The rule that a function switches off, by the function's name."""
    scenario = {"gloom": (0.0,), "researchers": (1,), "how_many": MANY if faults else (0,)} | scenario

    def add(off: Callable[[Patch], None]) -> None:
        RULES[off.__name__] = Rule(off, Scenario(faults=faults, **scenario), answer)

    return add


# -- order and once ---------------------------------------------------------------------------------------------------


@rule("I3", weathers=ROUGH)
def a_host_obeys_only_newer_calls(patch: Patch) -> None:
    patch.setattr(SyncHost, "_is_newest", lambda _host, _call: True)


@rule("I1", "cut_link", "kill_actor", weathers=ROUGH)
def a_visit_starts_once(patch: Patch) -> None:
    patch.setattr(Spool, "may_start", lambda _spool, _visit: True)


@rule("I1", "kill_actor")
def a_visit_is_on_disk_before_it_starts(patch: Patch) -> None:
    def begin(spool: Spool, visit: int, order: tuple[int, int], sitting: str) -> None:  # noqa: ARG001
        spool._started = Started(visit, *order)

    patch.setattr(Spool, "begin", begin)


@rule("cancelled", "kill_controller", dying=False)
def a_controllers_death_cancels_nothing(patch: Patch) -> None:
    """Off: a new controller asks for nothing until it has heard of everyone."""
    plain = Link.next_call

    def next_call(self: Link, desired: tuple[Visit, ...], mode: Mode, now: float, wait_s: float = link.WAIT_S) -> Call:
        return plain(self, desired if self._generation else (), mode, now, wait_s)

    patch.setattr(Link, "next_call", next_call)


# -- the spool --------------------------------------------------------------------------------------------------------


@rule("I2", "lose_disk")
def a_call_names_the_spool_it_is_about(patch: Patch) -> None:
    patch.setattr(SyncHost, "_names_spool", lambda _host, call: call.spool_id is not None)


@rule("I1", "lose_disk")
def what_is_lost_with_a_spool_is_not_desired_of_the_next(patch: Patch) -> None:
    """Off: as it was before the simulation found it."""
    plain, desire = Drive._hear, Drive._desire

    def hear(self: Drive, name: str, reply: Observation) -> float:
        patch.setattr(Drive, "_desire", lambda _drive, _snapshot: None)
        try:
            return plain(self, name, reply)
        finally:
            patch.setattr(Drive, "_desire", desire)

    patch.setattr(Drive, "_hear", hear)


@rule("refuses", "kill_controller")
def events_and_acked_seq_are_one_transaction(patch: Patch) -> None:
    plain = Ledger.ingest

    def ingest(self: WatchedLedger, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        before = self.acked(spool_id)
        done = plain(self, spool_id, host, entries)
        _store_acked(self, spool_id, before)
        self.life.boundary("between the events and their acknowledgement")
        _store_acked(self, spool_id, done.acked_seq)
        return done

    patch.setattr(Ledger, "ingest", ingest)


def _store_acked(ledger: Ledger, spool_id: str, acked_seq: int) -> None:
    with ledger._transaction() as tx:
        tx.change("UPDATE spool SET acked_seq = :a WHERE id = :s", a=acked_seq, s=spool_id)


@rule("I9", "kill_actor")
def what_is_acknowledged_is_stored(patch: Patch) -> None:
    """Off: a controller acknowledges what it was shown."""
    plain = Link.next_call

    def next_call(self: Link, desired: tuple[Visit, ...], mode: Mode, now: float, wait_s: float = link.WAIT_S) -> Call:
        call = plain(self, desired, mode, now, wait_s)
        return call.model_copy(update={"acked_seq": call.acked_seq + (call.acked_seq > 0)})

    patch.setattr(Link, "next_call", next_call)


@rule("I8", "forget_a_line")
def a_gap_is_a_fault_that_is_said(patch: Patch) -> None:
    """Off: at the link and at the ledger, which both look."""
    say = Transaction.note

    def ingest(self: Link, reply: Observation) -> Ingest:
        entries = tuple(entry for entry in reply.entries if entry.seq > self._acked_seq)
        return Ingest(reply, entries, None)

    patch.setattr(Link, "_ingest", ingest)

    def quiet(self: Transaction, what: str, why: str, host: str | None = None, visit: int | None = None) -> None:
        if what != "gap":
            say(self, what, why, host, visit)

    patch.setattr(Transaction, "note", quiet)


@rule("I5", "kill_actor", weathers=ROUGH)
def a_torn_last_line_is_cut(patch: Patch) -> None:
    plain = Spool._parse

    def parse(self: Spool, data: bytes) -> tuple[list[Any], int]:
        return plain(self, data)[0], len(data)

    patch.setattr(Spool, "_parse", parse)


@rule("I5", "fill_disk", "kill_actor")
def a_spool_that_lost_lines_is_given_up(patch: Patch) -> None:
    """Off: the id stays on a disk that takes no more."""

    def break_(self: Spool, error: OSError) -> None:
        self.broken = f"no space: {error}"

    patch.setattr(Spool, "_break", break_)


# -- one owner --------------------------------------------------------------------------------------------------------


@rule("I3", "kill_actor", "cut_link")
def an_actor_waits_for_the_lock(patch: Patch) -> None:
    patch.setattr(Machine, "is_held", lambda _machine: False)
    patch.setattr(Machine, "end_orphans", lambda _machine: None)


@rule("I", researchers=(2,))
def a_host_obeys_one_ledger(patch: Patch) -> None:
    plain = SyncHost.claim

    def claim(self: SyncHost, call: Call, now: float) -> Observation | None:
        if not self._owns(call) and self._owner is not None:
            self._release()
        return plain(self, call, now)

    patch.setattr(SyncHost, "claim", claim)


@rule("I2", "leave_for_good", researchers=(2,), hosts=(1,), dying=False)
def a_silent_owner_loses_its_host(patch: Patch) -> None:
    plain = SyncHost._release

    def release(self: SyncHost) -> None:
        if self._mode is Mode.DRAIN:
            plain(self)

    patch.setattr(SyncHost, "_release", release)


@rule("seconds", researchers=(2,), weathers=CALM_SEA, dying=False)
def who_is_done_lets_the_hosts_go(patch: Patch) -> None:
    async def release(_: Drive) -> None:
        return None

    patch.setattr(Drive, "release", release)


# -- two clocks -------------------------------------------------------------------------------------------------------


@rule("I6", "cut_link", "lose_power")
def a_suspect_host_gets_no_visit(patch: Patch) -> None:
    patch.setattr(Desk, "on_miss", lambda _desk, _loss, _reason: None)


@rule("losses", "cut_link", weathers=ROUGH, dying=False)
def a_host_is_lost_after_three_misses_and_15_s(patch: Patch) -> None:
    patch.setattr(link, "LOST_MISSES", 1)
    patch.setattr(link, "LOST_S", 0.0)


@rule("visits", "cut_link", weathers=CALM_SEA, dying=False, hosts=(1,), how_many=(3,), pace=6.0)
def a_lost_visit_that_proves_alive_is_taken_back(patch: Patch) -> None:
    patch.setattr(Drive, "_may_run", staticmethod(lambda visit, _taken: visit.state in lifecycle.OPEN_VISITS))


@rule("I4", "kill_controller", pace=10.0)
def a_host_that_nobody_calls_stops_its_runner(patch: Patch) -> None:
    patch.setattr(SyncHost, "tick", lambda _host, _now: None)


@rule("failed orphaned", "freeze_host", weathers=CALM_SEA, dying=False)
def a_host_that_was_stopped_reads_its_calls_first(patch: Patch) -> None:
    patch.setattr(sync, "STALLED_S", float("inf"))


@rule("I1", "cut_link", "stop_controller", hosts=(2, 3), how_many=(20, 28), pace=4.0)
def the_first_finished_wins(patch: Patch) -> None:
    """Off: the last does, where the database lets it."""
    plain = WatchedLedger.ingest

    def ingest(self: WatchedLedger, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        ended = [e.visit for e in entries if e.body.event == "visit_ended"]
        with self._transaction() as tx:
            tx.change("DROP TRIGGER IF EXISTS block_accept")
            for visit in ended:
                tx.change(
                    "UPDATE block SET accepted_visit = NULL WHERE id = (SELECT block FROM visit WHERE id = :v)", v=visit
                )
        return plain(self, spool_id, host, entries)

    patch.setattr(life.MortalLedger, "ingest", life.with_boundaries(ingest, "ingest"))


# -- who gets a visit -------------------------------------------------------------------------------------------------


@rule("I6", "occupy", weathers=CALM_SEA)
def an_unclean_host_gets_no_visit(patch: Patch) -> None:
    def what_it_is(self: Desk, seen: Observation, now: float) -> tuple[HostState, str]:  # noqa: ARG001
        return (HostState.BUSY if self.alive else HostState.READY), ""

    patch.setattr(Desk, "_what_it_is", what_it_is)


@rule("I6", "kill_actor", weathers=CALM_SEA, hosts=(3, 5))
def a_dead_actors_host_is_unknown(patch: Patch) -> None:
    """Off: also as a suspicion, which it becomes at the same moment."""
    patch.setattr(Desk, "on_down", lambda _desk, _reason: None)
    patch.setattr(Desk, "on_miss", lambda _desk, _loss, _reason: None)


@rule("I6", hosts=(3, 5), boxes=(1,))
def a_machine_has_one_visit(patch: Patch) -> None:
    patch.setattr(life, "POLICY", Policy(exclusive=False))


@rule("I7", "curse", "kill_runner", hosts=(2, 3))
def an_ambiguous_failure_is_retried_elsewhere(patch: Patch) -> None:
    def forgetful(world: World, now: float) -> list[Effect]:
        blocks = tuple(block._replace(avoid_host=None) for block in world.ledger.blocks)
        return plan(world._replace(ledger=world.ledger._replace(blocks=blocks)), now)

    patch.setattr(controller, "plan", forgetful)


@rule("I7", "kill_runner")
def an_ambiguous_failure_is_retried_once(patch: Patch) -> None:
    plain = lifecycle.blame
    patch.setattr(lifecycle, "blame", lambda kind: Blame.JOB if plain(kind) is Blame.AMBIGUOUS else plain(kind))


@rule("I7", "occupy")
def a_hosts_failure_spends_no_budget_of_the_job(patch: Patch) -> None:
    plain = lifecycle.blame
    patch.setattr(lifecycle, "blame", lambda kind: Blame.JOB if plain(kind) is Blame.HOST else plain(kind))


# -- actors -----------------------------------------------------------------------------------------------------------


@rule("I2", "lose_power", hosts=(1,))
def a_dead_actors_name_is_freed(patch: Patch) -> None:
    patch.setattr(Wire, "discard", lambda _wire, _host: None)


@rule("I2", "other_version", hosts=(1,))
def an_actor_of_another_version_is_replaced(patch: Patch) -> None:
    plain = Link.on_reply

    def on_reply(self: Link, reply: Observation, now: float) -> link.Outcome:
        outcome = plain(self, reply, now)
        return link.Dropped("it speaks another version") if isinstance(outcome, Replace) else outcome

    patch.setattr(Link, "on_reply", on_reply)


@rule("I3", "other_version", hosts=(1,))
def an_actor_of_another_version_is_left_to_whoever_needs_it(patch: Patch) -> None:
    async def replace(self: Drive, name: str, why: str) -> None:  # noqa: ARG001
        raise HostDown(why)

    patch.setattr(Drive, "_replace_actor", replace)


# -- requests ---------------------------------------------------------------------------------------------------------


@rule("I9", "ask", "kill_controller")
def a_request_is_done_before_it_is_answered(patch: Patch) -> None:
    def answer_all(ledger: Ledger, do: Callable[..., str] = requests.execute) -> None:
        for request in ledger.requests():
            ledger.answer(request.id, "done")
            do(ledger, request.verb, request.body)

    patch.setattr(requests, "answer_all", answer_all)
