from math import ceil

import pytest

from core.events import Entry, HostFault, PhaseBegan
from core.protocol import PROTOCOL, Answer, Call, Controller, HostHeld, Mode, Observation
from core.visit import Phase
from orchestrator.link import (
    ANSWER_S,
    LOST_MISSES,
    LOST_S,
    STALLED_S,
    WAIT_S,
    Adopt,
    Dropped,
    Health,
    Held,
    Ingest,
    Link,
    Replace,
)

ME = Controller(user="ann", machine="desk", pid=7)
MISS_S = WAIT_S + ANSWER_S
# How many slow misses make a loss.
ENOUGH = max(LOST_MISSES, ceil(LOST_S / MISS_S))


def link(spool_id: str | None = "s", acked_seq: int = 0) -> Link:
    return Link("ledger", ME, 3, spool_id, acked_seq, now=0.0)


def call(of: Link, now: float = 0.0) -> Call:
    return of.next_call((), Mode.RUN, now)


def reply(to: Call, *seqs: int, answer: Answer = Answer.OBEYED, spool_id: str = "s", **fields) -> Observation:
    body = PhaseBegan(slot=None, phase=Phase.INIT)
    entries = tuple(Entry(seq=seq, at_ns=0, visit=None, body=body) for seq in seqs)
    return Observation(
        host="h",
        epoch=to.epoch,
        generation=to.generation,
        answer=answer,
        spool_id=spool_id,
        entries=entries,
        last_seq=max(seqs, default=0),
        **fields,
    )


def ingested(outcome: object) -> list[int]:
    assert isinstance(outcome, Ingest)
    return [entry.seq for entry in outcome.entries]


def test_link_numbers_its_calls_within_its_epoch() -> None:
    one = link()
    assert [call(one).order for _ in range(3)] == [(3, 1), (3, 2), (3, 3)]


def test_link_acknowledges_only_what_was_committed() -> None:
    one = link()
    assert ingested(one.on_reply(reply(call(one), 1, 2), 0.0)) == [1, 2]
    assert call(one).acked_seq == 0
    one.committed("s", 2)
    assert call(one).acked_seq == 2


def test_link_drops_a_reply_to_an_older_call_than_the_last_handled() -> None:
    one = link()
    old, new = call(one), call(one)
    one.on_reply(reply(new, 1), 0.0)
    assert isinstance(one.on_reply(reply(old, 1), 0.0), Dropped)
    assert isinstance(one.on_reply(reply(new, 1), 0.0), Dropped)


def test_link_handles_a_late_reply_that_is_newer_than_the_last_handled() -> None:
    one = link()
    first, second = call(one), call(one)
    assert ingested(one.on_reply(reply(first, 1), 0.0)) == [1]
    one.committed("s", 1)
    assert ingested(one.on_reply(reply(second, 1, 2), 0.0)) == [2]


def test_link_drops_stale_and_handles_the_answer_to_the_same_call() -> None:
    one = link()
    asked = call(one)
    assert isinstance(one.on_reply(reply(asked, answer=Answer.STALE), 0.0), Dropped)
    assert ingested(one.on_reply(reply(asked, 1), 0.0)) == [1]


def test_link_gap_is_a_fault_and_not_a_crash() -> None:
    one = link(acked_seq=4)
    outcome = one.on_reply(reply(call(one), 7, 8), 0.0)
    assert ingested(outcome) == [7, 8]
    assert isinstance(outcome, Ingest)
    assert outcome.fault == HostFault(fault="gap in the spool", detail="spool s of h: line 7 follows line 4")


def test_link_gap_within_a_reply_ends_it_there() -> None:
    one = link()
    outcome = one.on_reply(reply(call(one), 1, 2, 4), 0.0)
    assert ingested(outcome) == [1, 2]
    assert isinstance(outcome, Ingest)
    assert outcome.fault is not None


def test_link_adopts_another_spool_in_calls_only_after_the_ledger_knows() -> None:
    one = link(acked_seq=9)
    outcome = one.on_reply(reply(call(one), answer=Answer.OTHER_SPOOL, spool_id="t"), 0.0)
    assert outcome == Adopt("t", lost="s")
    asked = call(one)
    assert (asked.spool_id, asked.acked_seq) == ("s", 9)
    one.adopted("t", 0)
    asked = call(one)
    assert (asked.spool_id, asked.acked_seq) == ("t", 0)


def test_link_first_spool_loses_nothing() -> None:
    one = link(spool_id=None)
    asked = call(one)
    assert asked.spool_id is None
    assert one.on_reply(reply(asked, answer=Answer.OTHER_SPOOL, spool_id="t"), 0.0) == Adopt("t", lost=None)


def test_link_told_of_its_own_spool_again_does_nothing() -> None:
    one = link(spool_id=None)
    first, second = call(one), call(one)
    one.on_reply(reply(first, answer=Answer.OTHER_SPOOL, spool_id="t"), 0.0)
    one.adopted("t", 0)
    assert isinstance(one.on_reply(reply(second, answer=Answer.OTHER_SPOOL, spool_id="t"), 0.0), Dropped)


def test_link_drops_lines_of_a_spool_it_has_not_adopted() -> None:
    one = link()
    assert isinstance(one.on_reply(reply(call(one), 1, spool_id="t"), 0.0), Dropped)


def test_link_commit_of_a_former_spool_acknowledges_nothing() -> None:
    one = link()
    one.adopted("t", 0)
    one.committed("s", 5)
    assert one.acked_seq == 0


def test_link_held_names_the_owner() -> None:
    one = link()
    held = HostHeld(user="bob", controller="laptop:8", since="noon")
    assert one.on_reply(reply(call(one), answer=Answer.HELD, spool_id="", held=held), 0.0) == Held(held)


def test_link_other_version_is_to_be_replaced() -> None:
    one = link()
    other = reply(call(one), answer=Answer.OTHER_PROTOCOL, spool_id="").model_copy(update={"protocol": PROTOCOL + 1})
    assert one.on_reply(other, 0.0) == Replace(PROTOCOL + 1)


# -- health


def miss(of: Link, now: float) -> float:
    """A call that nobody answers. Returns when that was seen."""
    asked = call(of, now)
    of.on_miss(asked.order, now + MISS_S)
    return now + MISS_S


def answered(of: Link, now: float) -> None:
    of.on_reply(reply(call(of, now)), now)


def test_link_is_unknown_until_the_first_answer() -> None:
    one = link()
    assert one.health(0.0) is Health.UNKNOWN
    answered(one, 1.0)
    assert one.health(1.0) is Health.FINE


def test_link_is_suspect_after_one_miss_and_fine_after_an_answer() -> None:
    one = link()
    answered(one, 0.0)
    now = miss(one, 0.0)
    assert now <= 5.0
    assert one.health(now) is Health.SUSPECT
    answered(one, now)
    assert one.health(now) is Health.FINE


def test_link_is_lost_after_enough_misses_and_15_seconds() -> None:
    one = link()
    answered(one, 0.0)
    now = 0.0
    for _ in range(ENOUGH):
        assert one.health(now) is not Health.LOST
        now = miss(one, now)
    assert now >= LOST_S
    assert one.health(now) is Health.LOST


def test_link_fast_misses_wait_for_the_15_seconds() -> None:
    one = link()
    answered(one, 0.0)
    for tenth in range(1, 100):
        asked = call(one, tenth / 10)
        one.on_miss(asked.order, tenth / 10)
    assert one.health(10.0) is Health.SUSPECT
    assert one.health(LOST_S) is Health.LOST


def test_link_15_seconds_without_three_misses_are_not_a_loss() -> None:
    one = link()
    answered(one, 0.0)
    now = miss(one, miss(one, 0.0))
    for second in range(60):
        assert one.health(now + second) is Health.SUSPECT


def test_link_never_answered_is_lost_too() -> None:
    one = link()
    now = 0.0
    for _ in range(ENOUGH):
        now = miss(one, now)
    assert one.health(now) is Health.LOST


def test_link_counts_a_call_missed_twice_once_and_an_answered_one_never() -> None:
    one = link()
    asked = call(one)
    one.on_reply(reply(asked), 0.0)
    one.on_miss(asked.order, 1.0)
    assert one.health(1.0) is Health.FINE
    asked = call(one, 1.0)
    for _ in range(9):
        one.on_miss(asked.order, 1.0 + MISS_S)
    for second in range(6, 20):
        assert one.health(float(second)) is Health.SUSPECT


@pytest.mark.parametrize("stalled_at", ["while a call is out", "between two calls"])
def test_link_of_a_controller_that_was_stopped_needs_fresh_misses(stalled_at: str) -> None:
    one = link()
    answered(one, 0.0)
    now = miss(one, miss(one, 0.0))
    if stalled_at == "while a call is out":
        asked = call(one, now)
        now += 120.0
        one.on_miss(asked.order, now)
    else:
        now += 120.0
    assert one.health(now) is Health.UNKNOWN
    for _ in range(ENOUGH):
        assert one.health(now) is not Health.LOST
        now = miss(one, now)
    assert one.health(now) is Health.LOST


def test_link_of_a_controller_that_was_stopped_waits_15_seconds_for_fast_misses_too() -> None:
    one = link()
    answered(one, 0.0)
    woke = 120.0
    for tenth in range(1, 100):
        asked = call(one, woke + tenth / 10)
        one.on_miss(asked.order, woke + tenth / 10)
    assert one.health(woke + 10.0) is Health.UNKNOWN
    assert one.health(woke + 0.1 + LOST_S) is Health.LOST


def test_link_of_a_controller_that_was_cut_off_needs_fresh_misses() -> None:
    one = link()
    one.on_reply(reply(call(one)), now=0.0)
    for miss in range(1, ENOUGH + 1):
        one.on_miss(call(one, miss * MISS_S).order, miss * MISS_S)
    assert one.health(ENOUGH * MISS_S) is Health.LOST
    back = (ENOUGH + 1) * MISS_S
    one.on_cut_off(back)
    assert one.health(back) is Health.UNKNOWN
    for miss in range(1, ENOUGH):
        one.on_miss(call(one, back + miss * MISS_S).order, back + miss * MISS_S)
        assert one.health(back + miss * MISS_S) is Health.UNKNOWN
    one.on_miss(call(one, back + ENOUGH * MISS_S).order, back + ENOUGH * MISS_S)
    assert one.health(back + ENOUGH * MISS_S) is Health.LOST


def test_link_look_that_is_a_little_late_is_no_stall() -> None:
    one = link()
    answered(one, 0.0)
    asked = call(one, 0.0)
    one.on_miss(asked.order, STALLED_S)
    assert one.health(STALLED_S) is Health.SUSPECT
