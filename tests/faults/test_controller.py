"""The controller is killed or stopped, wherever it is: no run is lost, nothing runs twice, nobody else decides."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.trial import Trial
from tests.processes import stat, wait_until

pytestmark = pytest.mark.slow

STOPPING = Path(__file__).with_name("stopping.py")

# Longer than every clock of a controller by which it may call a host lost.
STALL_S = 25.0


def is_stopped(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, "it ended before it came to the place"
    return stat(process.pid)[0] == "T"


def stopped_at(place: str, trial: Trial) -> subprocess.Popen[str]:
    command = ("run", str(trial.matrix), "--pool", str(trial.pool), "--ledger", str(trial.ledger))
    process = trial.spawn(sys.executable, str(STOPPING), place, *command)
    wait_until(lambda: is_stopped(process), 120, f"the stop at {place!r}")
    return process


@pytest.mark.parametrize(
    ("place", "has_visits", "has_begun", "has_ended"),
    [
        ("ready", False, False, False),
        ("leased", True, False, False),
        ("ingesting", True, True, False),
        ("ingested", True, True, True),
    ],
)
def test_controller_killed_at_a_place_is_followed_by_one_that_loses_nothing(
    trial: Callable[..., Trial], place: str, has_visits: bool, has_begun: bool, has_ended: bool
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=0.8)
    process = stopped_at(place, one)
    # it is where it should be
    inherited = len(one.visits())
    assert (inherited > 0) == has_visits
    assert (one.events("visit_began") != []) == has_begun
    assert (one.events("run_ended") != []) == has_ended
    one.kill(process)
    assert one.finish() == 0, one.said
    one.assert_complete()
    # what the first one had begun ended under the second, and nothing was measured again
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]
    epochs = one.rows("SELECT epoch, ended_epoch FROM visit ORDER BY id")
    assert epochs == [(1, 2)] * inherited + [(2, 2)] * (2 - inherited)


@pytest.mark.parametrize("stall_s", [STALL_S, pytest.param(120.0, marks=pytest.mark.soak)])
def test_controller_stopped_and_resumed_loses_no_host_and_nobody_else_decides_meanwhile(
    trial: Callable[..., Trial], stall_s: float
) -> None:
    one = trial(groups=2, blocks=4, iters=3, sleep_s=0.8)
    first = one.start()
    one.until_a_runner_measures()
    command = ("run", str(one.matrix), "--pool", str(one.pool))
    refused = one.say(*command)
    assert (refused.returncode, str(first.pid) in refused.stderr) == (6, True), refused.stderr
    before = len(one.events("run_ended"))
    first.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(first), what="the stop of the controller")
    until = time.monotonic() + stall_s
    refused = one.say(*command)
    assert (refused.returncode, str(first.pid) in refused.stderr) == (6, True), refused.stderr
    wait_until(lambda: time.monotonic() > until, stall_s + 60)
    first.send_signal(signal.SIGCONT)
    # what ran meanwhile is heard, from hosts that were never given up
    wait_until(lambda: len(one.events("run_ended")) > before, what="news after the stop")
    one.until_a_runner_measures()
    one.kill(first)
    assert one.finish() == 0, one.said
    one.assert_complete()
    assert one.decisions("lost") == []
    assert {state for _, _, state, _ in one.visits()} == {"finished"}
    assert one.rows("SELECT count(*) FROM controller") == [(2,)]
