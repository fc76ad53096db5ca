"""What a ledger remembers of hosts beyond their visits: how they stand, and whose failures are theirs."""

import pytest

from core.events import RunEnded
from core.failures import Kind
from core.lifecycle import HostState
from tests.core.ledger.conftest import Lab, matrix

OK = {0: "ok", 1: "ok", 2: "ok"}


def _conditions(lab: Lab) -> list[tuple]:
    return lab.rows("SELECT host, state, reason, trusted_from FROM condition ORDER BY host")


def test_condition_is_the_last_one_seen(lab: Lab) -> None:
    lab.host("h1")
    lab.ledger.see_condition("h1", HostState.UNKNOWN, "")
    lab.ledger.see_condition("h1", HostState.RECOVERING, "pid 7 holds it")
    assert _conditions(lab) == [("h1", "recovering", "pid 7 holds it", 0)]
    assert lab.decisions() == []


def test_condition_of_a_quarantined_host_is_also_an_event(lab: Lab) -> None:
    lab.host("h1")
    lab.ledger.see_condition("h1", HostState.QUARANTINED, "3 faults")
    why = lab.rows("SELECT host, json_extract(body, '$.why') FROM event WHERE spool = 'ledger'")
    assert (lab.decisions(), why) == (["quarantined"], [("h1", "3 faults")])


def _fail(lab: Lab, host: str, slot: int, kind: Kind) -> None:
    lab.measure(host, {**OK, slot: kind})


def test_host_is_blamed_for_jobs_that_failed_there_and_passed_elsewhere_afterwards(lab: Lab) -> None:
    lab.queue(matrix(blocks=4))
    _fail(lab, "h1", 1, Kind.CRASH)
    assert lab.ledger.snapshot().blamed == {}
    lab.measure("h2", {0: "ok", 1: "ok"})
    assert {h: len(jobs) for h, jobs in lab.ledger.snapshot().blamed.items()} == {"h1": 1}
    _fail(lab, "h1", 2, Kind.XLA_ABORT)
    lab.measure("h2", {0: "ok", 1: "ok"})
    assert {h: len(jobs) for h, jobs in lab.ledger.snapshot().blamed.items()} == {"h1": 2}


@pytest.mark.parametrize("kind", [Kind.NUMERICS, Kind.TPU_BUSY])
def test_host_is_blamed_for_nothing_but_ambiguous_failures(lab: Lab, kind: Kind) -> None:
    lab.queue(matrix(blocks=3))
    _fail(lab, "h1", 1, kind)
    lab.measure("h2", OK)
    assert lab.ledger.snapshot().blamed == {}


def test_host_is_not_blamed_when_the_job_passed_there_too_or_only_before(lab: Lab) -> None:
    lab.queue(matrix(blocks=4))
    lab.measure("h2", OK)
    _fail(lab, "h1", 1, Kind.CRASH)
    lab.measure("h1", {0: "ok", 1: "ok"})
    assert lab.ledger.snapshot().blamed == {}


def test_host_that_was_set_aside_has_paid_and_is_blamed_only_for_what_comes_after(lab: Lab) -> None:
    lab.queue(matrix(blocks=6))
    _fail(lab, "h1", 1, Kind.CRASH)
    lab.measure("h2", {0: "ok", 1: "ok"})
    assert lab.ledger.snapshot().blamed
    lab.ledger.see_condition("h1", HostState.QUARANTINED, "bad")
    assert lab.ledger.snapshot().blamed == {}
    lab.ledger.see_condition("h1", HostState.READY, "")
    assert lab.ledger.snapshot().blamed == {}
    _fail(lab, "h1", 2, Kind.CRASH)
    lab.measure("h2", {0: "ok", 1: "ok"})
    assert {h: len(jobs) for h, jobs in lab.ledger.snapshot().blamed.items()} == {"h1": 1}


def test_alarm_brings_the_words_of_the_first_job_that_failed(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.say("h1", visit, RunEnded(slot=1, outcome="failed", kind=Kind.USER_ERROR, reason="topk = 9 is too many\nmore"))
    lab.ledger.alarm(1, "seeds", "its first jobs failed alike")
    said = "its first jobs failed alike; the first said: topk = 9 is too many"
    assert lab.ledger.snapshot().series[1].paused == said


def test_alarm_pauses_once_and_is_remembered_until_what_failed_is_forgiven(lab: Lab) -> None:
    lab.queue()
    lab.ledger.alarm(1, "seeds", "its first jobs failed alike")
    series = lab.ledger.snapshot().series[1]
    assert (series.paused, series.alarmed) == ("its first jobs failed alike", True)
    lab.ledger.resume("seeds")
    series = lab.ledger.snapshot().series[1]
    assert (series.paused, series.alarmed) == (None, True)
    lab.measure("h1", {0: "ok", 1: Kind.USER_ERROR, 2: "ok"})
    lab.ledger.retry("seeds", {})
    assert not lab.ledger.snapshot().series[1].alarmed
