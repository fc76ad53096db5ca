import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from workers.host.process import Identity, end_by, end_survivors, identify, is_alive, send, survivors

# Starts a grandchild in the same group, says its pid, and sleeps.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], Identity, Identity]]:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    grandchild = identify(int(parent.stdout.readline()))
    leader = identify(parent.pid)
    assert leader is not None
    assert grandchild is not None
    yield parent, leader, grandchild
    end_survivors(leader)
    parent.wait()
    parent.stdout.close()


def test_identify_without_a_process_is_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert identify(child.pid) is None


def test_is_alive_of_a_zombie_is_false() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    identity = identify(child.pid)
    assert identity is not None
    assert is_alive(identity)
    child.kill()
    wait_until(lambda: not is_alive(identity))
    assert child.returncode is None
    child.communicate()


def test_is_alive_of_a_reused_pid_is_false() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(me._replace(start_time=me.start_time - 1))


def test_survivors_are_leader_and_group(family) -> None:
    _, leader, grandchild = family
    assert sorted(survivors(leader)) == sorted([leader, grandchild])


def test_end_survivors_leaves_nobody(family) -> None:
    _, leader, grandchild = family
    assert end_survivors(leader) == []
    assert not is_alive(leader)
    assert not is_alive(grandchild)


def test_end_survivors_of_a_dead_leader_ends_its_group(family) -> None:
    parent, leader, grandchild = family
    os.kill(leader.pid, signal.SIGKILL)
    parent.wait()
    assert is_alive(grandchild)
    assert end_survivors(leader) == []
    assert not is_alive(grandchild)


def test_end_survivors_spares_a_process_with_another_start_time(family) -> None:
    _, leader, grandchild = family
    assert end_survivors(leader._replace(start_time=leader.start_time + 10**9)) == []
    assert is_alive(leader)
    assert is_alive(grandchild)


def test_send_reaches_the_very_process_and_spares_one_that_was_given_its_pid(family) -> None:
    _, leader, grandchild = family
    send(grandchild._replace(start_time=grandchild.start_time - 1), signal.SIGKILL)
    send(leader, signal.SIGCONT)
    assert is_alive(grandchild)
    send(grandchild, signal.SIGKILL)
    wait_until(lambda: not is_alive(grandchild))
    send(grandchild, signal.SIGKILL)


def test_end_by_returns_who_does_not_end(family) -> None:
    _, leader, grandchild = family
    assert end_by(signal.SIGCONT, [leader, grandchild], within_s=0.1) == [leader, grandchild]
    assert end_by(signal.SIGKILL, [leader, grandchild], within_s=10.0) == []


def test_identify_a_process_with_parentheses_in_its_name(tmp_path: Path) -> None:
    name = tmp_path / "a) S (b"
    name.symlink_to("/bin/sleep")
    child = subprocess.Popen([name, "600"])
    try:
        identity = identify(child.pid)
        assert identity is not None
        assert is_alive(identity)
        assert identity.start_time > 0
    finally:
        child.kill()
        child.wait()
