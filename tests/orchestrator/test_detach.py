"""`--detach`: refused in the foreground or held by a process of its own, which a closed terminal does not end."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.ledger.holder import holder
from core.ledger.paths import log_path
from core.ledger.writer import Ledger, OnChange
from core.matrix import NO_OVERRIDES
from orchestrator import detach
from orchestrator.requests import enqueue, queue_body
from tests.conftest import session_of, wait_until
from tests.orchestrator.test_end_to_end import MATRIX, assert_complete, rows

# What a slow machine may take for Ray to start and a block to run.
LATE_S = 240.0


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = tmp_path / "chaos.toml"
    path.write_text(MATRIX)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    """Where the ledger is to be. Whoever still drives it in the end is ended, with its session."""
    path = tmp_path / "l.db"
    yield path
    if (held := holder(path)) is not None and held.pid != os.getpid():
        for pid in session_of(held.pid):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def terminal(command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A shell that leads the session of a terminal of its own: its process, and the other side of the terminal."""
    ours, theirs = os.openpty()
    shell = subprocess.Popen(
        ["setsid", "--ctty", "--wait", "bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield shell, ours
    finally:
        shell.kill()
        shell.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_run_detached_outlives_its_terminal_takes_more_and_is_followed_to_its_end(
    hillclimb: str, matrix: Path, ledger: Path, tmp_path: Path
) -> None:
    said, gone = tmp_path / "said", tmp_path / "gone"
    command = f"trap 'echo gone > {gone}; exit' HUP; {hillclimb} run {matrix} --detach --ledger {ledger} > {said}; read"
    with terminal(command) as (_, ours):
        wait_until(lambda: "status chaos --follow" in _text(said), LATE_S, "what --detach says")
        held = holder(ledger)
        assert held is not None
        assert f"pid {held.pid} drives chaos; what it says goes to {log_path(ledger)}" in _text(said)
        os.close(ours)
        wait_until(gone.exists, LATE_S, "the terminal's end")

    # from the first visit on it answers what it is asked
    wait_until(lambda: rows(ledger, "SELECT id FROM visit"), LATE_S, "the first visit")
    second = tmp_path / "second.toml"
    second.write_text(MATRIX.replace('"chaos"', '"second"'))
    more = _hillclimb(hillclimb, "run", str(second), "--detach", "--ledger", str(ledger))
    assert more.returncode == 0
    assert f"pid {held.pid} on {held.machine} drives this ledger and takes second up" in more.stdout
    assert "second: 4 cells, 4 jobs, 2 groups; series 1: 4 blocks to measure" in more.stderr

    followed = _hillclimb(hillclimb, "status", "--follow", "--ledger", str(ledger))
    assert followed.returncode == 0
    logged = [line for line in log_path(ledger).read_text().splitlines() if line.startswith("visit ")]
    seen = [line for line in followed.stderr.splitlines() if line.startswith("visit ")]
    assert len(logged) == len(rows(ledger, "SELECT id FROM visit"))
    assert len(seen) >= 4
    assert seen == logged[-len(seen) :]
    wait_until(lambda: holder(ledger) is None, LATE_S, "the controller's end")
    assert_complete(ledger, blocks=8)
    assert rows(ledger, "SELECT DISTINCT c.pid FROM visit v JOIN controller c ON c.epoch = v.epoch") == [(held.pid,)]


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_drive_detached_drives_what_is_named_and_stops_in_order(
    hillclimb: str, matrix: Path, ledger: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(MATRIX.replace('"chaos"', '"other"'))
    for path in (other, matrix):
        assert _hillclimb(hillclimb, "queue", str(path), "--ledger", str(ledger)).returncode == 0
    said = _hillclimb(hillclimb, "drive", "cha", "--detach", "--ledger", str(ledger))
    assert said.returncode == 0, said.stderr
    held = holder(ledger)
    assert held is not None
    wait_until(lambda: rows(ledger, "SELECT id FROM visit"), LATE_S, "the first visit")
    os.kill(held.pid, signal.SIGTERM)
    wait_until(lambda: holder(ledger) is None, LATE_S, "the controller's end")
    wait_until(lambda: session_of(held.pid) == [], LATE_S, "the end of what it had started")
    assert "SIGTERM: stopping what runs" in log_path(ledger).read_text()
    driven = _hillclimb(hillclimb, "drive", "cha", "--ledger", str(ledger))
    assert driven.returncode == 0, driven.stderr
    assert rows(
        ledger,
        "SELECT s.experiment, count(*) FROM block b JOIN series s ON s.id = b.series "
        "WHERE b.accepted_visit IS NULL AND b.closed IS NULL GROUP BY 1",
    ) == [("other", 4)]
    assert rows(
        ledger,
        "SELECT DISTINCT s.experiment FROM visit v JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series",
    ) == [("chaos",)]


def test_run_detached_with_a_bad_matrix_or_pool_is_refused_in_the_foreground(
    hillclimb: str, matrix: Path, ledger: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(MATRIX.replace("sleep_s", "slep_s"))
    for words, told in (((str(bad),), "sleep_s"), ((str(matrix), "--pool", "none.toml"), "none.toml")):
        refused = _hillclimb(hillclimb, "run", *words, "--detach", "--ledger", str(ledger))
        assert refused.returncode == 2
        assert told in refused.stderr
    assert not ledger.exists()
    assert not log_path(ledger).exists()


def test_run_detached_with_nothing_to_measure_starts_nobody(hillclimb: str, matrix: Path, ledger: Path) -> None:
    _queue(ledger)
    _hillclimb(hillclimb, "cancel", "chaos", "--ledger", str(ledger))
    again = _hillclimb(hillclimb, "run", str(matrix), "--detach", "--ledger", str(ledger))
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing to do" in again.stderr
    assert not log_path(ledger).exists()


def test_drive_detached_of_a_held_ledger_exits_as_its_controller_with_its_last_words(
    hillclimb: str, ledger: Path
) -> None:
    _queue(ledger)
    with Ledger.open(ledger):
        refused = _hillclimb(hillclimb, "drive", "--detach", "--ledger", str(ledger))
    assert refused.returncode == 6
    assert refused.stderr.startswith(f"hillclimb: {ledger} is held by ")
    assert f"pid {os.getpid()}" in refused.stderr


def test_drive_of_an_unknown_experiment_exits_5_and_names_the_nearest(hillclimb: str, ledger: Path) -> None:
    _queue(ledger)
    for more in ((), ("--detach",)):
        refused = _hillclimb(hillclimb, "drive", "chaso", *more, "--ledger", str(ledger))
        assert refused.returncode == 5
        assert "did you mean 'chaos'?" in refused.stderr


def test_detach_interrupted_before_the_ledger_is_held_leaves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, pid = tmp_path / "slow.py", tmp_path / "pid"
    slow.write_text(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    monkeypatch.setattr(detach.sys, "argv", [str(slow)])

    def asks(_: Path) -> None:
        if pid.exists() and pid.read_text():
            raise SystemExit(130)

    monkeypatch.setattr(detach, "holder", asks)
    with pytest.raises(SystemExit):
        detach.start(["drive"], tmp_path / "l.db")
    assert not Path(f"/proc/{pid.read_text()}").exists()


def _hillclimb(hillclimb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([hillclimb, *words], capture_output=True, text=True, timeout=LATE_S, check=False)


def _queue(ledger: Path) -> None:
    with Ledger.open(ledger) as opened:
        enqueue(opened, queue_body(MATRIX, "chaos.toml", NO_OVERRIDES, OnChange.REFUSE))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
