"""The whole road with the real command, real Ray and real signals: nothing lost, nothing twice."""

import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import end_session, wait_until

pytestmark = pytest.mark.slow

# Four jobs in pairs with a baseline: two groups of two arms, each measured in two blocks.
MATRIX = """
[experiment]
id = "chaos"
goal = "Does a matrix survive its controller?"
[job]
kind = "selftest"
sleep_s = 0.15
[axes]
seed = [1, 2]
"env.ARM" = ["a", "b"]
[baseline]
"env.ARM" = "a"
[measure]
blocks = 2
iters = 2
warmup = 0
"""


def rows(ledger: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def assert_complete(ledger: Path, blocks: int) -> None:
    """Every block ended with one accepted visit of its own; every job has its samples in as many blocks as asked for.

    A visit that was cut after its reference is accepted too: a further block makes up for what it lacks.
    """
    accepted = rows(ledger, "SELECT b.id, v.block, v.state FROM block b JOIN visit v ON v.id = b.accepted_visit")
    assert len(accepted) == len(rows(ledger, "SELECT id FROM block WHERE closed IS NULL")) >= blocks
    assert all(block == of and state in {"finished", "failed"} for block, of, state in accepted)
    assert rows(ledger, "SELECT r.id FROM run r JOIN block b ON b.accepted_visit = r.visit WHERE outcome ISNULL") == []
    per_pair = rows(
        ledger,
        """SELECT r.job, count(DISTINCT b.id) FROM block b JOIN run r ON r.visit = b.accepted_visit
           WHERE r.outcome = 'ok' AND (SELECT count(*) FROM sample s WHERE s.run = r.id) = 2 GROUP BY r.job""",
    )
    assert len(per_pair) == 4
    assert all(count >= 2 for _, count in per_pair)
    assert rows(ledger, "SELECT visit, slot FROM run GROUP BY visit, slot HAVING count(*) > 1") == []
    started = rows(ledger, "SELECT visit FROM event WHERE event = 'visit_began' GROUP BY visit HAVING count(*) > 1")
    assert started == []


def start(hillclimb: str, matrix: Path, ledger: Path, log: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [hillclimb, "run", str(matrix), "--ledger", str(ledger), *more],
        stdout=log.open("a"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def finish(hillclimb: str, matrix: Path, ledger: Path, log: Path, *more: str) -> int:
    last = start(hillclimb, matrix, ledger, log, *more)
    try:
        return last.wait(240)
    finally:
        end_session(last)


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "chaos.toml"
    path.write_text(MATRIX)
    return path


def visits(ledger: Path) -> int:
    try:
        return len(rows(ledger, "SELECT id FROM visit"))
    except sqlite3.OperationalError:
        return 0


def test_run_on_an_attached_ray_survives_a_killed_controller(
    hillclimb: str, attached_ray: Path, matrix: Path, tmp_path: Path
) -> None:
    """Eight seeds: SIGKILL at a random moment after the first visit was assigned, then the same command again."""
    handed_over = 0
    for seed in range(8):
        ledger, log = tmp_path / f"{seed}.db", tmp_path / f"{seed}.log"
        first = start(hillclimb, matrix, ledger, log, "--pool", str(attached_ray))
        try:
            wait_until(lambda ledger=ledger: visits(ledger), 90, "the first visit")
            time.sleep(random.Random(seed).uniform(0, 4))
            assert first.poll() is None, f"seed {seed}: the controller ended before it was killed: {log.read_text()}"
            first.send_signal(signal.SIGKILL)
            first.wait()
        finally:
            end_session(first)
        assert finish(hillclimb, matrix, ledger, log, "--pool", str(attached_ray)) == 0, (
            f"seed {seed}: {log.read_text()}"
        )
        assert_complete(ledger, blocks=4)
        handed_over += len(
            rows(
                ledger,
                "SELECT v.id FROM visit v JOIN block b ON b.accepted_visit = v.id WHERE v.epoch <> v.ended_epoch",
            )
        )
    assert handed_over >= 1, "no run began under one controller and ended under the next"


@pytest.mark.usefixtures("state")
def test_run_on_the_embedded_pool_survives_a_killed_controller(hillclimb: str, matrix: Path, tmp_path: Path) -> None:
    for seed in range(2):
        ledger, log = tmp_path / f"{seed}.db", tmp_path / f"{seed}.log"
        first = start(hillclimb, matrix, ledger, log)
        try:
            wait_until(lambda ledger=ledger: visits(ledger), 90, "the first visit")
            time.sleep(random.Random(seed).uniform(0, 4))
            assert first.poll() is None, log.read_text()
            first.send_signal(signal.SIGKILL)
            first.wait()
        finally:
            end_session(first)
        assert finish(hillclimb, matrix, ledger, log) == 0, f"seed {seed}: {log.read_text()}"
        assert_complete(ledger, blocks=4)
        # Ray's workers are niced by default: what is measured must not be
        assert rows(ledger, "SELECT DISTINCT json_extract(facts, '$.nice') FROM environment") == [("0",)]


@pytest.mark.parametrize("victim", ["actor", "runner"])
def test_run_when_an_actor_or_a_runner_is_killed_measures_the_block_again(
    hillclimb: str, attached_ray: Path, matrix: Path, tmp_path: Path, victim: str
) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    running = start(hillclimb, matrix, ledger, log, "--pool", str(attached_ray))
    try:
        runner_began = "SELECT json_extract(body, '$.pid') FROM event WHERE event = 'runner_began'"
        wait_until(lambda: visits(ledger) and rows(ledger, runner_began), 90, "the first runner")
        (pid,) = rows(ledger, runner_began)[-1]
        if victim == "actor":
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pid = int(fields[1])
        os.kill(pid, signal.SIGKILL)
        assert running.wait(240) == 0, log.read_text()
    finally:
        end_session(running)
    assert_complete(ledger, blocks=4)
    # the fault fired, and is told as what it was
    kinds = rows(
        ledger, "SELECT kind FROM visit WHERE kind IS NOT NULL UNION ALL SELECT kind FROM run WHERE kind IS NOT NULL"
    )
    assert kinds == [("worker_lost",)] if victim == "actor" else kinds == [("killed",)]


def test_run_again_after_its_end_does_nothing_and_says_so(
    hillclimb: str, attached_ray: Path, matrix: Path, tmp_path: Path
) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    assert finish(hillclimb, matrix, ledger, log, "--pool", str(attached_ray)) == 0, log.read_text()
    before = visits(ledger)
    again = tmp_path / "again"
    assert finish(hillclimb, matrix, ledger, again, "--pool", "no-such-pool.toml") == 2
    assert finish(hillclimb, matrix, ledger, again, "--pool", str(attached_ray)) == 0
    assert visits(ledger) == before
    assert "nothing to do" in again.read_text()
