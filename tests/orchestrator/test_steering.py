"""What a person does to a running matrix: interrupts it, asks for something else, starts a second one."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import end_session, wait_until
from tests.orchestrator.test_end_to_end import MATRIX, assert_complete, finish, rows, start, visits

pytestmark = pytest.mark.slow


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "steered.toml"
    path.write_text(MATRIX.replace("sleep_s = 0.15", "sleep_s = 1.0"))
    return path


def say(hillclimb: str, ledger: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([hillclimb, *words, "--ledger", str(ledger)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
@pytest.mark.usefixtures("state")
def test_run_interrupted_stops_what_runs_and_goes_on_by_the_same_command(
    hillclimb: str, matrix: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    running = start(hillclimb, matrix, ledger, log)
    try:
        began = "SELECT visit FROM event WHERE event = 'runner_began'"
        wait_until(lambda: visits(ledger) and rows(ledger, began), 90, "the first runner")
        running.send_signal(number)
        assert running.wait(60) == code, log.read_text()
    finally:
        end_session(running)
    assert rows(ledger, "SELECT state FROM visit") == [("cancelled",)]
    assert rows(ledger, "SELECT count(*) FROM block WHERE closed NOTNULL") == [(0,)]
    assert finish(hillclimb, matrix, ledger, log) == 0, log.read_text()
    assert_complete(ledger, blocks=4)


@pytest.mark.usefixtures("state")
def test_a_running_matrix_is_paused_queued_to_and_cancelled_by_other_processes(
    hillclimb: str, matrix: Path, tmp_path: Path
) -> None:
    ledger, log = tmp_path / "ledger.db", tmp_path / "log"
    other = tmp_path / "other.toml"
    other.write_text(MATRIX.replace('"chaos"', '"other"').replace("blocks = 2", "blocks = 1"))
    running = start(hillclimb, matrix, ledger, log)
    try:
        wait_until(lambda: visits(ledger), 90, "the first visit")
        second = say(hillclimb, ledger, "run", str(matrix))
        assert second.returncode == 6
        assert str(running.pid) in second.stderr

        assert say(hillclimb, ledger, "queue", str(other)).returncode == 0
        assert say(hillclimb, ledger, "pause", "chaos", "--why", "lunch").returncode == 0
        assert rows(ledger, "SELECT paused FROM experiment WHERE id = 'chaos'") == [("lunch",)]
        wrong = say(hillclimb, ledger, "pause", "choas")
        assert (wrong.returncode, "chaos" in wrong.stderr) == (5, True), wrong.stderr
        assert say(hillclimb, ledger, "cancel", "chaos").returncode == 0
        # what was queued meanwhile is driven by the controller that runs
        assert running.wait(120) == 0, log.read_text()
    finally:
        end_session(running)
    done = dict(
        rows(ledger, "SELECT experiment, count(accepted_visit) FROM block b JOIN series s ON s.id = series GROUP BY 1")
    )
    assert done["other"] == 2
    assert done["chaos"] < 4
    assert rows(ledger, "SELECT count(*) FROM request WHERE answer IS NULL") == [(0,)]
    states = json.loads(say(hillclimb, ledger, "ls", "chaos", "-o", "json").stdout)
    assert {cell["state"] for cell in states} <= {"done", "cancelled"}
    assert "cancelled" in {cell["state"] for cell in states}
