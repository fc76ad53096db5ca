"""What a host says becomes rows once, whatever way its lines arrive."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.events import (
    Body,
    Compiled,
    Entry,
    Environment,
    HostFault,
    Metric,
    PhaseBegan,
    Probed,
    RunEnded,
    RunnerBegan,
    RunnerExited,
    Samples,
    VisitBegan,
    VisitEnded,
)
from core.failures import Kind
from core.ledger.errors import Refused
from core.ledger.writer import Ledger
from core.visit import Phase
from tests.core.ledger.conftest import Lab, runs

FACTS = {"platform": "cpu", "device_count": "4"}
COMPILED = Compiled(slot=0, program="prog", inputs="in", lower_ns=5, compile_ns=7, cached=True)


def test_each_event_lands_in_its_rows(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.say(
        "h1",
        visit,
        VisitBegan(sitting="sit"),
        RunnerBegan(process=1, pid=9, start_time=8, slots=(0, 1)),
        PhaseBegan(slot=None, phase=Phase.INIT),
        Environment(process=1, facts=FACTS),
        COMPILED,
        Metric(slot=0, name="error", value=1e-7, scope="y", devices=4, formula="v1"),
        Samples(slot=0, wall_ns=(5, 6)),
        Samples(slot=0, first=2, wall_ns=(7,)),
        RunEnded(slot=0, outcome="ok"),
        RunEnded(
            slot=1,
            outcome="failed",
            kind=Kind.STALL,
            phase=Phase.COMPILE,
            reason="too slow",
            exit_status="signal 9 (SIGKILL)",
            stderr_tail="tail",
        ),
        RunnerExited(process=1, exit_status="exit 0"),
    )
    assert lab.rows("SELECT state, sitting FROM visit") == [("running", "sit")]
    assert lab.rows("SELECT id, host FROM sitting") == [("sit", "h1")]
    (environment, facts) = lab.rows("SELECT id, facts FROM environment")[0]
    assert json.loads(facts) == FACTS
    assert lab.rows(
        "SELECT process, environment, program, inputs, outcome, kind, phase, reason, exit_status, stderr_tail FROM run"
    ) == [
        (1, environment, "prog", "in", "ok", None, None, "", "", ""),
        (1, environment, None, None, "failed", "stall", "compile", "too slow", "signal 9 (SIGKILL)", "tail"),
        (None, None, None, None, None, None, None, "", "", ""),
    ]
    assert lab.rows("SELECT fingerprint FROM program") == [("prog",)]
    assert lab.rows("SELECT i, wall_ns FROM sample") == [(0, 5), (1, 6), (2, 7)]
    assert lab.rows("SELECT name, scope, value, devices, formula FROM metric ORDER BY name") == [
        ("compile_cached", "", 1.0, 1, ""),
        ("compile_ns", "", 7.0, 1, ""),
        ("error", "y", 1e-7, 4, "v1"),
        ("lower_ns", "", 5.0, 1, ""),
    ]
    assert lab.rows("SELECT COUNT(*), MIN(seq), MAX(seq) FROM event WHERE host = 'h1'") == [(11, 1, 11)]
    stored = lab.rows("SELECT body FROM event WHERE event = 'compiled'")[0][0]
    assert Compiled.model_validate_json(stored) == COMPILED


def test_probes_and_host_faults_belong_to_no_visit(lab: Lab) -> None:
    lab.say("h1", None, Probed(clean=False, reason="busy", free_disk_bytes=3), HostFault(fault="torn line"))
    assert lab.rows("SELECT host, clean, reason, free_disk_bytes FROM probe") == [("h1", 0, "busy", 3)]
    assert lab.rows("SELECT event, visit FROM event ORDER BY seq") == [("probed", None), ("fault", None)]
    assert lab.decisions() == []


def test_fresh_process_measures_its_slots_anew_and_its_word_counts(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.say(
        "h1",
        visit,
        *runs({0: "ok"}),
        Environment(process=1, facts=FACTS),
        RunnerBegan(process=1, pid=9, start_time=8, slots=(1, 2)),
        COMPILED.model_copy(update={"slot": 1}),
        Metric(slot=1, name="error", value=1.0),
        Samples(slot=1, wall_ns=(1, 2)),
    )
    lab.say(
        "h1",
        visit,
        RunnerBegan(process=2, pid=10, start_time=8, slots=(1, 2)),
        Environment(process=2, facts=FACTS | {"jax": "new"}),
        COMPILED.model_copy(update={"slot": 1, "program": "other"}),
        Metric(slot=1, name="error", value=2.0),
        Samples(slot=1, wall_ns=(3, 4)),
        RunEnded(slot=1, outcome="ok"),
        VisitEnded(state="finished"),
    )
    rows = lab.rows(
        "SELECT slot, process, program, json_extract(facts, '$.jax') "
        "FROM run LEFT JOIN environment e ON environment = e.id"
    )
    assert sorted(rows) == [(0, 1, None, None), (1, 2, "other", "new"), (2, 2, None, "new")]
    assert lab.rows("SELECT i, wall_ns FROM sample s JOIN run r ON r.id = s.run WHERE slot = 1") == [(0, 3), (1, 4)]
    assert lab.rows("SELECT value FROM metric WHERE name = 'error'") == [(2.0,)]


def test_failure_without_a_kind_is_the_runners_own_death(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.say("h1", visit, RunEnded(slot=0, outcome="failed"), RunEnded(slot=1, outcome="ok", kind=Kind.CRASH))
    assert lab.rows("SELECT outcome, kind FROM run") == [("failed", "crash"), ("ok", None), (None, None)]


@pytest.mark.parametrize(
    ("who", "body", "why"),
    [
        (99, RunEnded(slot=0, outcome="ok"), "no such visit was leased to this host"),
        (None, VisitBegan(sitting="s"), "no such visit was leased to this host"),
        (99, VisitEnded(state="finished"), "no such visit was leased to this host"),
        (2, RunEnded(slot=0, outcome="ok"), "no such visit was leased to this host"),
        (1, RunEnded(slot=7, outcome="ok"), "slot 7 was not leased"),
        (1, Samples(slot=0, wall_ns=(1,)), "the run of slot 0 is closed"),
        (1, Metric(slot=0, name="n", value=1.0), "the run of slot 0 is closed"),
        (1, COMPILED, "the run of slot 0 is closed"),
        (1, RunEnded(slot=0, outcome="failed", kind=Kind.CRASH), "the run of slot 0 is closed"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_event_that_fits_nothing_is_stored_flagged_and_changes_nothing(
    lab: Lab, who: int | None, body: Body, why: str, at_once: bool
) -> None:
    lab.queue()
    assert (lab.lease("h1"), lab.lease("h2", lab.blocks()[1].id)) == (1, 2)
    first = lab.entries("h1", 1, *runs({0: "ok"}))
    second = lab.entries("h1", who, body)
    for batch in ([*first, *second],) if at_once else (first, second):
        lab.ledger.ingest("spool-h1", "h1", batch)
    assert lab.rows("SELECT slot, outcome FROM run WHERE outcome IS NOT NULL") == [(0, "ok")]
    assert lab.rows("SELECT COUNT(*) FROM sample") == [(3,)]
    assert lab.rows("SELECT COUNT(*) FROM event WHERE host = 'h1' AND spool <> 'ledger'") == [(len(first) + 1,)]
    assert lab.rows("SELECT json_extract(body, '$.why') FROM event WHERE spool = 'ledger'") == [(f"1 events: {why}",)]


def test_gap_is_a_fault_event_and_what_follows_is_taken(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    entries = lab.entries("h1", visit, *runs({0: "ok", 1: "ok", 2: "ok"}), VisitEnded(state="finished"))
    stored = lab.ledger.ingest("spool-h1", "h1", [entries[0], *entries[3:]])
    assert stored.acked_seq == entries[-1].seq and len(stored.ended) == 1
    assert lab.decisions() == ["gap"]
    assert lab.rows("SELECT json_extract(body, '$.why') FROM event WHERE spool = 'ledger'") == [
        ("spool spool-h1: events 2 to 3 never came",)
    ]
    # what never came and comes after all is too late: its place is taken
    assert lab.ledger.ingest("spool-h1", "h1", entries[1:3]).acked_seq == entries[-1].seq


def test_lines_in_any_order_within_a_batch_are_applied_in_theirs(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    entries = lab.entries("h1", visit, *runs({0: "ok", 1: "ok", 2: "ok"}), VisitEnded(state="finished"))
    assert lab.ledger.ingest("spool-h1", "h1", entries[::-1]).ended[0].accepted
    assert lab.decisions() == []


@pytest.mark.parametrize(("spool", "host"), [("nobody's", "h1"), ("spool-h1", "h2"), ("ledger", "h1")])
def test_spool_that_was_not_named_is_refused(lab: Lab, spool: str, host: str) -> None:
    lab.host("h1"), lab.host("h2")
    with pytest.raises(Refused, match="new_spool"):
        lab.ledger.ingest(spool, host, [Entry(seq=1, at_ns=0, visit=None, body=Probed(clean=True))])


def test_late_begin_of_a_lost_visit_does_not_bring_it_back(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.ledger.lose(visit, Kind.HOST_LOST, "silent")
    lab.say("h1", visit, VisitBegan(sitting="sit"))
    assert lab.rows("SELECT state, sitting FROM visit") == [("lost", "sit")]


# -- any partition of a stream into batches, doubled and overlapping, gives the same rows ------------------------------

TABLES = ("visit", "run", "sample", "metric", "environment", "program", "block", "probe", "event", "sitting")


def _stream() -> list[tuple[int | None, Body]]:
    """Three visits of one host: one with failures, one cut short, one whose block the lost first takes away."""
    says: list[tuple[int | None, Body]] = [(None, Probed(clean=True))]
    says += [(1, body) for body in runs({0: "ok", 1: Kind.CRASH})]
    says += [(1, COMPILED.model_copy(update={"slot": 2})), (1, Metric(slot=2, name="n", value=1.0))]
    says += [(1, VisitEnded(state="failed", kind=Kind.WORKER_LOST))]
    says += [(2, body) for body in runs({2: Kind.NUMERICS, 0: "ok", 1: "ok"})]
    says += [(2, Environment(process=1, facts=FACTS)), (2, VisitEnded(state="finished"))]
    says += [(77, RunEnded(slot=0, outcome="ok")), (2, RunEnded(slot=0, outcome="ok"))]
    return says


STREAM = [Entry(seq=i, at_ns=i, visit=visit, body=body) for i, (visit, body) in enumerate(_stream(), 1)]


def _taken_in(batches: list[list[Entry]]) -> dict[str, Any]:
    with TemporaryDirectory() as directory:
        path = Path(directory, "l.db")
        with Ledger.open(path, lambda: 5) as ledger:
            lab = Lab(ledger, path)
            lab.queue()
            first, second = (b.id for b in lab.blocks())
            lab.lease("h1", first)
            ledger.lose(1, Kind.HOST_LOST, "silent")
            lab.lease("h1", second)
            for batch in batches:
                assert ledger.ingest("spool-h1", "h1", batch).acked_seq >= batch[-1].seq
            rows = {table: lab.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}
        # strays are counted by the batch, so their notes follow the batches
        rows["event"] = [row for row in rows["event"] if row[0] != "ledger"]
        return rows


EXPECTED = _taken_in([STREAM])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(STREAM) - 1), max_size=6), st.data())
def test_doubled_and_overlapping_batches_give_the_same_rows(cuts: list[int], data: st.DataObject) -> None:
    """Each batch begins anywhere up to what is stored, and ends where the next cut says."""
    batches, stored = [], 0
    for end in sorted({*cuts, len(STREAM)} - {0}):
        batches.append(STREAM[data.draw(st.integers(0, stored)) : end])
        stored = end
        if data.draw(st.booleans()):
            batches.append(batches[-1])
    assert _taken_in(batches) == EXPECTED


def test_expected_rows_of_the_stream_are_what_they_should_be() -> None:
    assert [row[6] for row in EXPECTED["visit"]] == ["failed", "finished"]
    assert len(EXPECTED["event"]) == len(STREAM)
    outcomes = [row[9] for row in EXPECTED["run"]]
    assert outcomes == ["ok", "failed", "stopped", "ok", "ok", "failed"]


def test_own_commits_are_no_news_to_a_ledger(lab: Lab) -> None:
    lab.queue()
    visit = lab.lease("h1")
    lab.ledger.changed()
    lab.say("h1", visit, *runs({0: "ok"}))
    assert not lab.ledger.changed()


def test_clock_that_stands_still_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path, lambda: 5) as ledger:
        lab = Lab(ledger, path)
        lab.queue()
        assert lab.measure("h1", {0: "ok", 1: Kind.CRASH, 2: "ok"}).make_up
        assert lab.measure("h1", {0: "ok", 1: Kind.CRASH}).condemned
