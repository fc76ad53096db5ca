"""SSH to a host fails in its several ways under a visit: what Ray carries goes on, what only SSH carries comes back.

The controller's link to its relay is an SSH session to the machine of Ray's head, `one`; to the others SSH is for
bringing up, and to tell a dead host from a dead raylet.
"""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.trial import ENDS_S, Trial
from tests.processes import last_until
from tests.testbed.machine import Machine
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]

FAULTS: dict[str, Callable[[Machine], None]] = {
    "killed": Machine.kill_sshd,
    "refused": Machine.refuse,
    "hanging": Machine.hang_sshd,
    "key changed": Machine.change_host_key,
}


@pytest.fixture
def sound(bed: Testbed) -> Iterator[Testbed]:
    """The testbed, with sshd of all machines as it was in the end."""
    yield bed
    for machine in bed.machines.values():
        machine.resume_sshd()
        if not machine.has_sshd:
            machine.start_sshd()
    bed.ann.knows(*bed.machines.values())


@pytest.mark.parametrize(
    ("host", "fault"),
    [
        ("two", "killed"),
        *(pytest.param("two", fault, marks=pytest.mark.soak) for fault in ("refused", "hanging", "key changed")),
        # sessions that there are stay: the relay's, too
        *(pytest.param("one", fault, marks=pytest.mark.soak) for fault in ("refused", "key changed")),
    ],
)
def test_sshd_that_carries_nothing_is_not_missed(
    sound: Testbed, trial: Callable[..., Trial], host: str, fault: str
) -> None:
    one = trial(groups=2, blocks=2, sleep_s=1.0)
    driver = one.start()
    one.until_a_runner_measures(host)
    FAULTS[fault](sound[host])
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert {state for _, _, state, _ in one.visits()} == {"finished"}
    assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
    assert "is suspect" not in one.said
    looked = sound.ann.says("pool", "status", "--pool", str(one.pool), "-o", "json")
    states = {row["host"]: row["state"] for row in json.loads(looked.stdout)}
    assert {name for name, state in states.items() if state != "up"} == {host}


@pytest.mark.parametrize(("fault", "lasts_s"), [("killed", 5.0), pytest.param("hanging", 40.0, marks=pytest.mark.soak)])
def test_sshd_of_the_heads_machine_gone_under_visits_and_back_repeats_none(
    sound: Testbed, trial: Callable[..., Trial], record_property: Record, fault: str, lasts_s: float
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=max(2.0, 0.3 * lasts_s))
    driver = one.start()
    one.until_a_runner_measures("one")
    one.until_a_runner_measures("two")
    FAULTS[fault](sound["one"])
    since = time.monotonic()
    one.until_said("is suspect")
    record_property("suspect_s", round(time.monotonic() - since, 2))
    last_until(since + lasts_s)
    sound["one"].resume_sshd()
    if not sound["one"].has_sshd:
        sound["one"].start_sshd()
    back = time.monotonic()
    heard = len(one.events("run_ended"))
    one.until("SELECT 1 FROM event WHERE event = 'run_ended' LIMIT 1 OFFSET ?", heard)
    record_property("heard_after_return_s", round(time.monotonic() - back, 2))
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]


@pytest.mark.soak
def test_host_key_of_the_heads_machine_changed_and_sessions_gone_says_how_to_accept_it_and_goes_on_when_accepted(
    sound: Testbed, trial: Callable[..., Trial]
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=4.0)
    driver = one.start()
    one.until_a_runner_measures("one")
    one.until_a_runner_measures("two")
    sound["one"].kill_sshd()
    sound["one"].new_host_key()
    sound["one"].start_sshd()
    one.until_said("ssh-keygen -R")
    assert sound["one"].address in one.said
    sound.ann.knows(*sound.machines.values())
    assert driver.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]
