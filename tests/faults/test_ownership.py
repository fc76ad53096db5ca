"""One host, two who want it: one has it, the other is told who, and goes on by itself when it is free."""

import re
import subprocess
import time
from collections.abc import Callable
from getpass import getuser
from pathlib import Path

import pytest

from core.failures import Kind
from tests.cluster import HEAD, Cluster
from tests.faults.trial import Trial
from tests.processes import children, wait_until

pytestmark = pytest.mark.slow

# Nobody waits for such a visit to end.
LONG_S = 600.0

Record = Callable[[str, object], None]


def until_told_who_holds_it(trial: Trial, holder: int) -> None:
    """User, machine and pid of the controller that has the host, and since when."""
    told = rf"one is held: held by {getuser()} \([^ ]+:{holder}\) since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d"
    wait_until(lambda: re.search(told, trial.said.replace("\n", " ")), 60, "the holder's name")


def release(trial: Trial, driver: subprocess.Popen[str]) -> float:
    """Its driver has nothing left to do, ends and lets its hosts go. When it had ended."""
    assert trial.say("cancel", "trial").returncode == 0
    assert driver.wait(240) == 0, trial.said
    assert {state for _, _, state, _ in trial.visits()} == {"cancelled"}
    return time.monotonic()


def assert_one_after_the_other(first: Trial, second: Trial, host: str) -> None:
    """Both clocks are the host's."""
    (ended,) = first.rows("SELECT max(at_ns) FROM event WHERE event = 'visit_ended' AND host = ?", host)
    (began,) = second.rows("SELECT min(at_ns) FROM event WHERE event = 'visit_began' AND host = ?", host)
    assert began == (None,) or began > ended


def test_host_of_another_ledger_is_named_with_its_owner_and_taken_when_released(
    trial: Callable[..., Trial], record_property: Record
) -> None:
    first, second = trial(groups=2, blocks=1, sleep_s=LONG_S), trial(blocks=1, sleep_s=0.01)
    running = first.start()
    first.until_a_runner_measures("one")
    waiting = second.start()
    until_told_who_holds_it(second, running.pid)
    released = release(first, running)
    second.until("SELECT 1 FROM event WHERE event = 'runner_began'")
    record_property("taken_after_release_s", round(time.monotonic() - released, 2))
    assert waiting.wait(240) == 0, second.said
    second.assert_complete()
    for host in ("one", "two"):
        assert_one_after_the_other(first, second, host)


def test_host_of_a_killed_controller_is_taken_after_the_orphan_clock(
    cluster: Cluster, trial: Callable[..., Trial], record_property: Record
) -> None:
    orphan_s = 8.0
    pool = cluster.pool_file("orphans", orphan_s=orphan_s)
    first, second = trial(pool, blocks=1, sleep_s=LONG_S), trial(pool, blocks=1, sleep_s=0.01)
    running = first.start()
    first.until_a_runner_measures()
    waiting = second.start()
    until_told_who_holds_it(second, running.pid)
    killed = time.monotonic()
    first.kill(running)
    second.until("SELECT 1 FROM event WHERE event = 'runner_began'")
    taken_s = time.monotonic() - killed
    record_property("taken_after_kill_s", round(taken_s, 2))
    assert taken_s >= orphan_s
    assert first.runners() == []
    assert waiting.wait(240) == 0, second.said
    second.assert_complete()
    # the next controller of the first ledger hears what became of its visit
    first.start()
    first.until("SELECT 1 FROM visit WHERE state = 'failed'")
    assert first.rows("SELECT kind FROM visit WHERE id = 1") == [(Kind.ORPHANED.value,)]
    assert first.kinds_of_runs() == []


def test_second_actor_on_a_host_runs_nothing_until_the_first_has_let_go(
    cluster: Cluster, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    """Two Rays of two people reach one host: each has an actor there, and they know nothing of each other."""
    other = Cluster(tmp_path / "other", head_host="one")
    try:
        first, second = trial(groups=2, blocks=1, sleep_s=LONG_S), trial(other.pool, blocks=1, sleep_s=0.01)
        running = first.start()
        first.until_a_runner_measures("one")
        waiting = second.start()
        until_told_who_holds_it(second, running.pid)
        assert cluster.actor("one") is not None
        assert len(children(other.raylet(HEAD), "HostActor")) == 1
        release(first, running)
        assert waiting.wait(240) == 0, second.said
        second.assert_complete()
        assert_one_after_the_other(first, second, "one")
    finally:
        other.end()
