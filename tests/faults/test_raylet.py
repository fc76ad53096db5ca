"""A host's raylet ends, stands still, comes back: its block is measured there or elsewhere, nothing is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from core.failures import Kind
from tests.cluster import Cluster
from tests.faults.trial import Trial
from tests.processes import is_gone, wait_until

pytestmark = pytest.mark.slow

HOSTS = ("one", "two")
DIED_WITH_ITS_ACTOR = Kind.WORKER_LOST
NODE_IS_DEAD = Kind.RAYLET_LOST

# Aim: the block of a lost host runs elsewhere after so long. And what a busy machine may need on top of it.
ELSEWHERE_S = 25.0
GRACE_S = 10.0

Record = Callable[[str, object], None]


@pytest.fixture
def raylets(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, and its raylets there again in the end."""
    yield cluster
    cluster.start(*(host for host in HOSTS if not cluster.has_raylet(host)))


def end_raylet(cluster: Cluster, host: str, number: signal.Signals) -> None:
    raylet = cluster.raylet(host)
    os.kill(raylet, number)
    wait_until(lambda: is_gone(raylet), what=f"the end of the raylet of {host}")


def test_raylets_killed_and_back_with_their_labels_get_new_actors_that_tell_what_became_of_their_visits(
    raylets: Cluster, trial: Callable[..., Trial], record_property: Record
) -> None:
    """All at once, as in a power cut."""
    one = trial(groups=2, blocks=1, sleep_s=2.0)
    driver = one.start()
    runners = [one.until_a_runner_measures(host).pid for host in HOSTS]
    for host in HOSTS:
        end_raylet(raylets, host, signal.SIGKILL)
    wait_until(lambda: all(is_gone(runner) for runner in runners), what="the end of the runners with their raylets")
    raylets.start(*HOSTS)
    back = time.monotonic()
    one.until("SELECT 1 FROM event WHERE event = 'runner_began' AND visit > 2")
    record_property("measuring_after_return_s", round(time.monotonic() - back, 2))
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    # what the first two had not finished is told by the actors that came after, and measured again
    ended = {visit: (state, kind) for visit, _, state, kind in one.visits()}
    assert ended.pop(1) == ended.pop(2) == ("failed", DIED_WITH_ITS_ACTOR.value)
    assert set(ended.values()) == {("finished", None)}
    assert one.kinds_of_runs() == []


def test_raylet_terminated_for_good_is_lost_and_its_block_runs_elsewhere(
    raylets: Cluster, trial: Callable[..., Trial], record_property: Record
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=1.0)
    driver = one.start()
    visit = one.until_a_runner_measures("one").visit
    (block,) = one.rows("SELECT block FROM visit WHERE id = ?", visit)[0]
    since = time.monotonic()
    end_raylet(raylets, "one", signal.SIGTERM)
    one.until("SELECT 1 FROM visit WHERE block = ? AND id > ?", block, visit)
    elsewhere_s = time.monotonic() - since
    record_property("elsewhere_s", round(elsewhere_s, 2))
    assert elsewhere_s < ELSEWHERE_S + GRACE_S
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    ended = {v: (host, state, kind) for v, host, state, kind in one.visits()}
    assert ended[visit] == ("one", "lost", NODE_IS_DEAD.value)
    assert {host for host, state, _ in ended.values() if state == "finished"} == {"two"}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("stop_s", "blocks", "sleep_s"),
    # the last is longer than Ray waits before it calls a node dead
    [(30.0, 1, 9.0), (60.0, 1, 18.0), (300.0, 8, 15.0)],
)
def test_raylet_stopped_and_resumed_loses_nothing(
    raylets: Cluster,
    trial: Callable[..., Trial],
    record_property: Record,
    stop_s: float,
    blocks: int,
    sleep_s: float,
) -> None:
    """The raylet of a host whose visit lasts at least as long as it is stopped, or which is one of many."""
    one = trial(blocks=blocks, sleep_s=sleep_s)
    driver = one.start()
    raylet = raylets.raylet(one.until_a_runner_measures().host)
    os.kill(raylet, signal.SIGSTOP)
    until = time.monotonic() + stop_s
    try:
        wait_until(lambda: time.monotonic() > until, stop_s + 60)
        assert not is_gone(raylet)
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert driver.wait(900) == 0, one.said
    one.assert_complete()
    (first, *_), visits = one.visits(), one.visits()
    record_property("first_visit", str(first))
    record_property("visits", len(visits))
    record_property("runs_lost", len(one.rows("SELECT id FROM run WHERE outcome <> 'ok'")))
    record_property("suspicions", one.said.count("is suspect"))
    if stop_s < 60:
        # a raylet has no part in the calls of an actor: nobody notices
        assert [state for _, _, state, _ in visits] == ["finished"]
