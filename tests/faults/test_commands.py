"""Ctrl-C, SIGTERM and SIGHUP on every command: it says nothing of Python, leaves nothing at work and a whole ledger."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from core.ledger.writer import Ledger
from orchestrator.cli.main import app
from tests.cluster import BIN, Cluster
from tests.faults.trial import Trial
from tests.processes import session_of, wait_until

pytestmark = pytest.mark.slow

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}

# What a command is given here; MATRIX and POOL stand for files, JOB for a job's id.
QUICK = {
    "queue": ("MATRIX",),
    "plan": ("MATRIX",),
    "cancel": ("trial",),
    "retry": ("trial",),
    "pause": ("trial",),
    "resume": ("trial",),
    "ls": (),
    "show": ("JOB",),
    "table": ("trial",),
    "status": (),
    "compare": ("trial",),
    "export": ("trial",),
    "sql": ("SELECT 1",),
    "schema": ("pool",),
}
# These start a pool, or never end by themselves.
LONG = {
    "run": ("MATRIX",),
    "drive": (),
    "status --follow": (),
    "pool up": ("--pool", "POOL"),
    "pool status": ("--pool", "POOL"),
    "pool down": ("--pool", "POOL"),
    "pool check": (),
    "pool recover": (),
    "pool drain": ("local",),
    "pool release": ("local",),
}


def registered(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from registered(command, (*path, name))
        else:
            yield " ".join((*path, name))


def test_every_registered_command_is_interrupted_here() -> None:
    known = {name.partition(" --")[0] for name in (*QUICK, *LONG)}
    assert known == set(registered(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A matrix that is queued and not measured."""
    trial = Trial(tmp_path_factory.mktemp("queued"), {}, "")
    subprocess.run([BIN / "hillclimb", "queue", trial.matrix, "--ledger", trial.ledger], check=True)
    return trial


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of an ssh pool whose only host accepts a connection and never says a word."""
    pool = tmp_path_factory.mktemp("silent") / "pool.toml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, port = server.getsockname()
        host = f'[hosts.one]\naddress = "{address}"\nport = {port}\n'
        pool.write_text(f'kind = "ssh"\naccelerator = "cpu"\nuser = "ann"\n{host}')
        yield pool


def start(
    queued: Trial, pool: Path, root: Path, command: str, given: tuple[str, ...]
) -> tuple[subprocess.Popen[str], Path]:
    """The command on a copy of the ledger, in a session of its own."""
    root.mkdir()
    ledger = root / "ledger.db"
    shutil.copy(queued.ledger, ledger)
    ((job, *_), *_) = queued.rows("SELECT id FROM job")
    stands_for = {"MATRIX": str(queued.matrix), "POOL": str(pool), "JOB": job}
    words = [*command.split(), *(stands_for.get(word, word) for word in given)]
    process = subprocess.Popen(
        [BIN / "hillclimb", *words],
        env=os.environ | {"HILLCLIMB_LEDGER": str(ledger)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    return process, ledger


def handles_signals(process: subprocess.Popen[str]) -> bool:
    """Whether the command has come so far that it, and not Python, answers SIGTERM; or is done."""
    if process.poll() is not None:
        return True
    (caught,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line]
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("command", [*QUICK, *LONG])
@pytest.mark.usefixtures("state")
def test_command_interrupted_early_ends_as_interrupted_or_done_and_leaves_a_whole_ledger(
    queued: Trial, silent: Path, tmp_path: Path, command: str
) -> None:
    given = QUICK.get(command) or LONG.get(command) or ()
    processes = {number: start(queued, silent, tmp_path / number.name, command, given) for number in CODES}
    for number, (process, _) in processes.items():
        wait_until(lambda process=process: handles_signals(process), 60, f"the handlers of {command}")
        process.send_signal(number)
    for number, (process, ledger) in processes.items():
        said, _ = process.communicate(timeout=120)
        # a quick one may have been done before
        expected = {CODES[number]} if command in LONG else {CODES[number], 0}
        assert process.returncode in expected, (number, process.returncode, said)
        assert "Traceback" not in said
        wait_until(lambda process=process: session_of(process.pid) == [], 30, f"the end of what {command} started")
        with closing(sqlite3.connect(ledger)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("SELECT count(*) FROM visit").fetchall() == [(0,)]
        with Ledger.open(ledger) as free:
            assert free.epoch >= 2


def test_driver_of_a_ray_pool_interrupted_leaves_what_runs_and_the_same_command_goes_on(
    trial: Callable[..., Trial], cluster: Cluster
) -> None:
    """Each signal in turn, each under a visit: none of it is cancelled or lost."""
    one = trial(blocks=4, sleep_s=1.5)
    assert one.start("queue", str(one.matrix)).wait(120) == 0
    for drives, (number, code) in enumerate(CODES.items(), 1):
        driver = one.start("drive", "--pool", str(cluster.pool))
        one.until_said("attached to Ray", drives)
        one.until_a_runner_measures()
        driver.send_signal(number)
        assert driver.wait(60) == code, one.said
        assert one.rows("SELECT state FROM visit WHERE state NOT IN ('running', 'finished', 'leased')") == []
    assert one.finish("drive", "--pool", str(cluster.pool)) == 0, one.said
    one.assert_complete()
    assert {state for _, _, state, _ in one.visits()} == {"finished"}
    assert one.rows("SELECT count(*) FROM visit WHERE epoch <> ended_epoch")[0][0] >= 1
