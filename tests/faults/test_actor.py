"""The actor is killed under its visit: the next one tells from the spool what became of it."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core.failures import Kind
from tests.cluster import Cluster
from tests.faults.trial import Trial

pytestmark = pytest.mark.slow

DIED_WITH_ITS_ACTOR = Kind.WORKER_LOST


def kill_actor(cluster: Cluster, trial: Trial, spoil: Callable[[Path], None]) -> tuple[int, str]:
    """Kills the actor of a runner that measures, and has its spool spoilt before anybody else sees it.

    Returns the visit and its host.
    """
    _, visit, host = trial.until_a_runner_measures()
    actor = cluster.actor(host)
    assert actor is not None
    os.kill(actor, signal.SIGSTOP)
    ((ledger_id,),) = trial.rows("SELECT id FROM ledger")
    spoil(cluster.state / "hosts" / host / ledger_id)
    os.kill(actor, signal.SIGKILL)
    return visit, host


def tear(spool: Path) -> None:
    """Half a line at its end, as after a power cut."""
    with max(spool.glob("*.jsonl")).open("a") as segment:
        segment.write('{"seq": 1')


def test_actor_killed_with_a_torn_spool_is_followed_by_one_that_cuts_it_and_ends_the_visit(
    cluster: Cluster, trial: Callable[..., Trial]
) -> None:
    one = trial(groups=2, blocks=1, iters=3, sleep_s=1.0)
    driver = one.start()
    visit, host = kill_actor(cluster, one, tear)
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    assert (visit, host, "failed", DIED_WITH_ITS_ACTOR.value) in one.visits()
    assert visit not in one.accepted()
    assert [(event["fault"], event["host"]) for event in one.events("fault")] == [("torn spool line", host)]
    assert one.decisions("spool lost") == []


def test_actor_killed_with_its_spool_lost_is_followed_by_one_that_starts_nothing_again(
    cluster: Cluster, trial: Callable[..., Trial]
) -> None:
    """The directory is gone, and with it what was ever begun there."""
    one = trial(groups=2, blocks=1, iters=3, sleep_s=1.0)
    driver = one.start()
    visit, host = kill_actor(cluster, one, shutil.rmtree)
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    assert (visit, host, "lost", DIED_WITH_ITS_ACTOR.value) in one.visits()
    assert visit not in one.accepted()
    assert [decided["host"] for decided in one.decisions("spool lost")] == [host]
    assert one.rows("SELECT DISTINCT outcome FROM run WHERE visit = ?", visit) == [("stopped",)]
