import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.protocol import Controller
from workers.host.lock import HostLock

ANN = Controller(user="ann", machine="desk", pid=7)
BOB = Controller(user="bob", machine="laptop", pid=8)


def test_lock_taken_tells_the_second_who_has_it(tmp_path: Path) -> None:
    first, second = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    assert first.acquire(ANN, "noon") is None
    held = second.acquire(BOB, "later")
    assert held is not None
    assert (held.user, held.controller, held.since) == ("ann", "desk:7", "noon")


def test_lock_released_goes_to_the_next_without_a_new_file(tmp_path: Path) -> None:
    first, second = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    first.acquire(ANN, "noon")
    inode = (tmp_path / "lock").stat().st_ino
    first.release()
    assert second.acquire(BOB, "later") is None
    assert (tmp_path / "lock").stat().st_ino == inode
    held = first.acquire(ANN, "evening")
    assert held is not None
    assert held.user == "bob"


def test_lock_released_stays_with_the_process_that_inherited_it(tmp_path: Path) -> None:
    first, second = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    first.acquire(ANN, "noon")
    wait_for_stdin = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait_for_stdin, stdin=subprocess.PIPE, pass_fds=[first.descriptor]) as child:
        first.release()
        assert second.acquire(BOB, "later") is not None
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=20)
    assert second.acquire(BOB, "later") is None


def test_lock_not_held_gives_no_runner_a_descriptor(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no runner may start"):
        _ = HostLock(tmp_path / "lock").descriptor


def test_lock_with_unreadable_content_still_holds(tmp_path: Path) -> None:
    first, second = HostLock(tmp_path / "lock"), HostLock(tmp_path / "lock")
    first.acquire(ANN, "noon")
    os.ftruncate(first.descriptor, 5)
    held = second.acquire(BOB, "later")
    assert held is not None
    assert held.user == "unknown"
