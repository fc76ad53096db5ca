"""`status --follow`: it says what `run` would have said, ends when there is no more to come, and only ever reads."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import events as said
from core.failures import Kind
from core.ledger.ended import ended_visits
from core.ledger.errors import LedgerHeld
from core.ledger.reader import open_reader
from core.ledger.writer import EndedVisit, Ledger
from core.lifecycle import HostState
from core.visit import Target
from orchestrator.progress import visit_line
from tests.conftest import wait_until
from tests.orchestrator.test_read import End, by_experts, measure, queue

# What a slow machine may take to start the command, or to print a line.
SOON_S = 60.0


class Host:
    """A host of a ledger, as far as its spool goes."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        ledger.see_host(name, name, "cpu", 4)
        ledger.new_spool(name, f"spool-{name}")

    def lease(self) -> int:
        block = self._ledger.snapshot().blocks[0]
        return self._ledger.lease(block.id, self._name, [arm.slot for arm in block.arms])

    def says(self, visit: int, *bodies: object) -> list[EndedVisit]:
        first = self._ledger.acked(f"spool-{self._name}") + 1
        entries = [said.Entry(seq=first + i, at_ns=i, visit=visit, body=body) for i, body in enumerate(bodies)]
        return list(self._ledger.ingest(f"spool-{self._name}", self._name, entries).ended)

    def slots(self, visit: int) -> list[int]:
        return [slot.slot for slot in self._ledger.visit(visit, Target(), "c0de").slots]


def test_every_end_of_a_visit_reads_back_as_the_controller_told_it(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    told: list[EndedVisit] = []
    with Ledger.open(path) as ledger:
        queue(ledger)
        one, two = Host(ledger, "one"), Host(ledger, "two")

        useless = one.lease()
        told += one.says(useless, said.VisitEnded(state="failed", kind=Kind.DISK, reason="disk full"))

        cut = one.lease()
        reference = one.slots(cut)[0]
        told += one.says(
            cut,
            said.RunEnded(slot=reference, outcome="ok"),
            said.VisitEnded(state="failed", kind=Kind.WORKER_LOST, reason="the actor died"),
        )

        wrong = one.lease()
        ends = [said.RunEnded(slot=slot, outcome="ok") for slot in one.slots(wrong)[:-1]]
        bad = said.RunEnded(slot=one.slots(wrong)[-1], outcome="failed", kind=Kind.NUMERICS, reason="dw is off")
        told += one.says(wrong, *ends, bad, said.VisitEnded(state="finished"))

        late = one.lease()
        ledger.lose(late, Kind.HOST_LOST, "it does not answer")
        faster = two.lease()
        for host, visit in ((two, faster), (one, late)):
            ends = [said.RunEnded(slot=slot, outcome="ok") for slot in host.slots(visit)]
            told += host.says(visit, *ends, said.VisitEnded(state="finished"))

    lines = [visit_line(ended) for ended in told]
    for line, words in zip(
        lines,
        ("block is measured again", "measured in block 4", "kernel is at fault", "ok", "superseded"),
        strict=True,
    ):
        assert words in line
    with open_reader(path) as db:
        assert [visit_line(ended) for ended in ended_visits(db, ())] == lines
        assert [ended.visit for ended in ended_visits(db, {useless, cut, faster})] == [wrong, late]


@contextmanager
def follow(hillclimb: str, ledger: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The real command and what it says on stderr."""
    log = ledger.with_suffix(".err")
    with log.open("w") as err:
        process = subprocess.Popen(
            [hillclimb, "status", *words, "--follow", "--ledger", str(ledger), "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.communicate()


def test_follow_says_every_visit_and_every_ill_host_and_ends_with_the_experiment(
    hillclimb: str, tmp_path: Path
) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        measure(ledger, visits=1)
        with follow(hillclimb, path, "fir") as (process, log):
            wait_until(lambda: f"pid {os.getpid()}" in log.read_text(), SOON_S, "the follower's first line")
            measure(ledger, visits=1)
            wait_until(lambda: "visit 2 on h1: block 2 of first, 5 ok" in log.read_text(), SOON_S, "the visit's line")
            ledger.see_condition("h1", HostState.QUARANTINED, "it failed again and again")
            wait_until(lambda: "h1 is quarantined: it failed again" in log.read_text(), SOON_S, "the host's line")
            assert process.poll() is None
            measure(ledger)
            out, _ = process.communicate(timeout=SOON_S)
            assert process.returncode == 0
        # the ledger is still held: it is the experiment that has ended
        assert {cell["state"] for cell in json.loads(out)["cells"]} == {"done", "skipped"}
    assert "visit 3 on h1: block 3 of first" in log.read_text()
    assert "visit 1 " not in log.read_text()


def test_follow_of_an_experiment_with_failed_jobs_exits_3(hillclimb: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        measure(ledger, lambda job, at: End(kind=Kind.NUMERICS) if job.experts == 16 else by_experts(job, at))
    with follow(hillclimb, path) as (process, _):
        process.communicate(timeout=SOON_S)
        assert process.returncode == 3


def test_follow_without_a_controller_exits_6_and_when_all_is_paused_as_run_does(hillclimb: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
    with follow(hillclimb, path, "first") as (process, log):
        out, _ = process.communicate(timeout=SOON_S)
        assert process.returncode == 6
    assert "3 blocks are to go: `hillclimb drive first` goes on" in log.read_text()
    assert len(json.loads(out)["waiting"]) == 3
    with Ledger.open(path) as ledger:
        ledger.pause("first", "lunch")
    with follow(hillclimb, path, "first") as (process, log):
        process.communicate(timeout=SOON_S)
        assert process.returncode == 0
    assert "first is paused: lunch; `hillclimb resume first`" in log.read_text()


def test_follow_ends_by_itself_when_its_controller_is_killed(hillclimb: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
    with holding(path) as controller, follow(hillclimb, path) as (process, log):
        wait_until(lambda: f"pid {controller.pid} " in log.read_text(), SOON_S, "the follower's first line")
        assert process.poll() is None
        controller.kill()
        process.communicate(timeout=SOON_S)
        assert process.returncode == 6
    assert "nobody drives this, 3 blocks are to go" in log.read_text()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)], ids=str
)
def test_follow_interrupted_says_nothing_more_and_leaves_the_controller_alone(
    hillclimb: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        with follow(hillclimb, path) as (process, log):
            wait_until(lambda: f"pid {os.getpid()}" in log.read_text(), SOON_S, "the follower's first line")
            process.send_signal(number)
            out, _ = process.communicate(timeout=SOON_S)
            assert process.returncode == code
        assert out == ""
        assert len(log.read_text().splitlines()) == 1
        measure(ledger)
        assert ledger.snapshot().blocks == ()


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that decides for the ledger and does nothing."""
    program = (
        "import sys, time; from pathlib import Path; from core.ledger.writer import Ledger\n"
        "with Ledger.open(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_stopped_controller_is_told_with_the_way_on(hillclimb: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
    with holding(path) as controller:
        with pytest.raises(LedgerHeld, match="wait for its end"):
            Ledger.open(path)
        with follow(hillclimb, path) as (_, log):
            wait_until(lambda: f"pid {controller.pid} " in log.read_text(), SOON_S, "the follower's first line")
            controller.send_signal(signal.SIGSTOP)
            advice = f"it is stopped: `kill -CONT {controller.pid}` lets it go on"
            wait_until(lambda: advice in log.read_text(), SOON_S, "the advice")
        with pytest.raises(LedgerHeld, match=advice):
            Ledger.open(path)
        controller.send_signal(signal.SIGCONT)
        wait_until(lambda: Path(f"/proc/{controller.pid}/stat").read_text().split()[2] != "T", SOON_S)
        with pytest.raises(LedgerHeld, match="wait for its end"):
            Ledger.open(path)


def test_follow_only_reads(hillclimb: str, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
    with sqlite3.connect(path) as db:
        before = list(db.iterdump())
    with follow(hillclimb, path) as (process, _):
        process.communicate(timeout=SOON_S)
    with sqlite3.connect(path) as db:
        assert list(db.iterdump()) == before
