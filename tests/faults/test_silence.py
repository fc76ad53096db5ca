"""A host falls silent under a visit and comes back: the first visit that finishes counts, and no run of it is lost.

Its actor is stopped; its runner works on, or is stopped too. Ray notices nothing of either.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.cluster import Cluster
from tests.faults.trial import Trial
from tests.processes import is_gone, wait_until

pytestmark = pytest.mark.slow

# Aims: a host that says nothing gets no new visit after so long, and its block runs elsewhere.
SUSPECT_S = 5.0
ELSEWHERE_S = 25.0
# What the machine that runs these tests may take longer, when it has much else to do.
GRACE_S = 5.0


class Silent(NamedTuple):
    """A host that was stopped under its visit, and what has to go on when it comes back."""

    visit: int
    host: str
    actor: int
    runner: int
    since: float

    def resume(self) -> None:
        for pid in (self.runner, self.actor):
            if not is_gone(pid):
                os.kill(pid, signal.SIGCONT)


def silence(cluster: Cluster, trial: Trial, with_runner: bool) -> Silent:
    """Stops the host whose runner measures."""
    runner, visit, host = trial.until_a_runner_measures()
    actor = cluster.actor(host)
    assert actor is not None
    os.kill(actor, signal.SIGSTOP)
    if with_runner:
        os.kill(runner, signal.SIGSTOP)
    return Silent(visit, host, actor, runner, time.monotonic())


def test_host_silent_with_nobody_else_to_take_its_block_is_taken_back_when_it_returns(
    cluster: Cluster, trial: Callable[..., Trial], record_property: Callable[[str, object], None]
) -> None:
    one = trial(blocks=1, sleep_s=4.0)
    driver = one.start()
    quiet = silence(cluster, one, with_runner=True)
    other = cluster.actor("two" if quiet.host == "one" else "one")
    assert other is not None
    os.kill(other, signal.SIGSTOP)
    one.until_said(f"{quiet.host} is suspect")
    record_property("suspect_s", round(time.monotonic() - quiet.since, 2))
    assert time.monotonic() - quiet.since < SUSPECT_S + GRACE_S
    one.until("SELECT id FROM visit WHERE state = 'lost'")
    record_property("lost_s", round(time.monotonic() - quiet.since, 2))
    quiet.resume()
    one.until("SELECT id FROM visit WHERE state = 'running'")
    os.kill(other, signal.SIGCONT)
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    assert one.visits() == [(quiet.visit, quiet.host, "finished", None)]
    assert len(one.decisions("taken back")) == 1


@pytest.mark.parametrize(
    ("returns", "when", "first", "second"),
    [
        ("finished", "before", "finished", "superseded"),
        ("finished", "after", "superseded", "finished"),
        pytest.param("running", "before", "cancelled", "finished", marks=pytest.mark.soak),
        pytest.param("running", "after", "superseded", "finished", marks=pytest.mark.soak),
    ],
)
def test_host_silent_returns_before_or_after_its_block_was_measured_elsewhere_and_the_first_finished_wins(
    cluster: Cluster,
    trial: Callable[..., Trial],
    record_property: Callable[[str, object], None],
    returns: str,
    when: str,
    first: str,
    second: str,
) -> None:
    """`returns`: what the silent host has to say then, that its visit has finished or that it is still at it."""
    # two groups: one is what both measure, the other keeps the other host at work; with two blocks of each the driver
    # still has something to do when the block in question is measured
    one = trial(groups=2, blocks=2 if when == "after" else 1, sleep_s=1.0)
    driver = one.start()
    quiet = silence(cluster, one, with_runner=returns == "running")
    (block,) = one.rows("SELECT block FROM visit WHERE id = ?", quiet.visit)[0]
    one.until("SELECT id FROM visit WHERE block = ? AND id > ?", block, quiet.visit)
    elsewhere_s = time.monotonic() - quiet.since
    record_property("elsewhere_s", round(elsewhere_s, 2))
    assert elsewhere_s < ELSEWHERE_S + GRACE_S
    (rival, host) = one.rows("SELECT id, host FROM visit WHERE block = ? AND id > ?", block, quiet.visit)[0]
    assert host != quiet.host
    if returns == "finished":
        wait_until(lambda: is_gone(quiet.runner), what="the end of the runner that nobody hears")
    if when == "after":
        one.until("SELECT id FROM block WHERE accepted_visit = ?", rival)
        assert driver.poll() is None, one.said
    else:
        one.until_a_runner_measures(visit=rival)
    quiet.resume()
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    states = {visit: state for visit, _, state, _ in one.visits()}
    assert (states[quiet.visit], states[rival]) == (first, second)
    assert one.rows("SELECT accepted_visit FROM block WHERE id = ?", block) == [
        (quiet.visit if first == "finished" else rival,)
    ]
    if returns == "finished":
        # what both measured is kept, and one of the two is counted
        outcomes = one.rows("SELECT outcome FROM run WHERE visit IN (?, ?)", quiet.visit, rival)
        assert outcomes == [("ok",)] * 4
