"""A pool's own commands, run for real."""

import asyncio
import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from infra.commands import run_command
from tests.conftest import wait_until
from tests.processes import is_gone

# Long enough for a process to start on a busy machine.
WITHIN_S = 60.0


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


async def test_command_that_ends_well_says_nothing_went_wrong() -> None:
    assert await run_command(python("print('done')"), WITHIN_S) == ""


async def test_command_gets_its_arguments_as_they_are(tmp_path: Path) -> None:
    odd = ["a b", "$(touch x)", "'", '"', "; rm *", "", "ü\n"]
    path = tmp_path / "said"
    code = "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]))"
    assert await run_command(python(code, str(path), *odd), WITHIN_S) == ""
    assert path.read_text() == repr(odd)


async def test_command_that_fails_says_how_with_its_last_words() -> None:
    argv = python("import sys; print('x' * 9000); print('no capacity in', file=sys.stderr); print('zone b'); exit(3)")
    wrong = await run_command(argv, WITHIN_S)
    assert wrong.startswith(f"`{shlex.join(argv)}` failed (exit 3): xxx")
    assert wrong.endswith("xxx / zone b / no capacity in") or wrong.endswith("xxx / no capacity in / zone b")
    assert len(wrong) < 2500


async def test_command_that_a_signal_ends_says_which() -> None:
    wrong = await run_command(python("import os; os.kill(os.getpid(), 15)"), WITHIN_S)
    assert wrong.endswith("failed (signal 15)")


@pytest.mark.parametrize("program", ["/no/such/program", "/etc/passwd"])
async def test_command_that_cannot_be_run_says_what_to_correct(program: str) -> None:
    wrong = await run_command([program, "x y"], WITHIN_S)
    assert wrong.startswith(f"`{program} 'x y'` cannot be run (")
    assert wrong.endswith("correct it in the pool file")


async def test_command_finds_nothing_to_read() -> None:
    assert await run_command(python("import sys; exit(len(sys.stdin.read()))"), WITHIN_S) == ""


@pytest.mark.slow
async def test_command_that_does_not_end_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("waiting for a machine", flush=True)
open(sys.argv[1] + ".new", "w").write(str(child.pid))
import os; os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
    path = tmp_path / "pid"
    running = asyncio.create_task(run_command(python(code, str(path)), 10.0))
    wrong = await running
    assert "had not ended after 10 s and was stopped: waiting for a machine" in wrong
    wait_until(lambda: is_gone(int(path.read_text())), what="the end of its child")


async def test_command_whose_child_goes_on_ends_with_itself(tmp_path: Path) -> None:
    code = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
"""
    path = tmp_path / "pid"
    assert await run_command(python(code, str(path)), WITHIN_S) == ""
    os.kill(int(path.read_text()), 9)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
async def test_command_that_nobody_waits_for_any_more_goes_on(tmp_path: Path) -> None:
    code = """
import pathlib, sys, time
pathlib.Path(sys.argv[1] + ".began").touch()
while not pathlib.Path(sys.argv[1] + ".go").exists(): time.sleep(0.05)
pathlib.Path(sys.argv[1] + ".ended").touch()
"""
    base = tmp_path / "it"
    running = asyncio.create_task(run_command(python(code, str(base)), WITHIN_S))
    deadline = time.monotonic() + WITHIN_S
    while not base.with_suffix(".began").exists():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    base.with_suffix(".go").touch()
    wait_until(base.with_suffix(".ended").exists, what="its end")
