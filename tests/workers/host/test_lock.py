import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.protocol import Controller
from tests.vfio import vfio
from tests.workers.host.holding import holding
from workers.host.lock import HostLock
from workers.host.marks import Marks
from workers.host.process import identify, is_alive

ANN = Controller(user="ann", machine="desk", pid=7)
BOB = Controller(user="bob", machine="laptop", pid=8)


def lock(state: Path) -> HostLock:
    return HostLock(state / "lock", Marks(state / "runners"), grace_s=0.5)


def test_lock_taken_tells_the_second_who_has_it(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    assert first.acquire(ANN, "noon") is None
    held = second.acquire(BOB, "later")
    assert held is not None
    assert (held.user, held.controller, held.since) == ("ann", "desk:7", "noon")


def test_lock_released_goes_to_the_next_without_a_new_file(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    inode = (tmp_path / "lock").stat().st_ino
    first.release()
    assert second.acquire(BOB, "later") is None
    assert (tmp_path / "lock").stat().st_ino == inode
    held = first.acquire(ANN, "evening")
    assert held is not None
    assert held.user == "bob"


def test_lock_released_stays_with_the_process_that_inherited_it(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
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
        _ = lock(tmp_path).descriptor


def test_lock_with_unreadable_content_still_holds(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    os.ftruncate(first.descriptor, 5)
    held = second.acquire(BOB, "later")
    assert held is not None
    assert held.user == "unknown"


def test_lock_in_the_hands_of_an_orphan_is_taken_over(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    mark = Marks(tmp_path / "runners").new()
    with holding(tmp_path / "anything", "stubborn", mark=mark, inherit=(first.descriptor,)) as orphan:
        first.release()
        inode = (tmp_path / "lock").stat().st_ino
        assert second.acquire(BOB, "later") is None
        assert not is_alive(orphan)
        assert (tmp_path / "lock").stat().st_ino == inode


def test_lock_of_a_living_actor_is_not_taken_over_for_the_orphan_beside_it(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    mark = Marks(tmp_path / "runners").new()
    with holding(tmp_path / "anything", mark=mark, inherit=(first.descriptor,)) as orphan:
        held = second.acquire(BOB, "later")
        assert held is not None
        assert held.user == "ann"
        assert is_alive(orphan)


def test_lock_in_the_hands_of_a_process_that_is_not_ours_is_not_taken_over(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    with holding(tmp_path / "anything", inherit=(first.descriptor,)) as stranger:
        first.release()
        assert second.acquire(BOB, "later") is not None
        assert is_alive(stranger)


def test_lock_taken_forgets_the_records_of_runners_before(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "runners")
    me = identify(os.getpid())
    assert me is not None
    marks.record(marks.new(), me)
    assert len(list((tmp_path / "runners").iterdir())) == 1
    assert lock(tmp_path).acquire(ANN, "noon") is None
    assert list((tmp_path / "runners").iterdir()) == []


@pytest.mark.slow
def test_lock_in_the_hands_of_an_orphan_in_the_kernel_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.host.orphans.GONE_S", 1.0)
    first, second = lock(tmp_path), lock(tmp_path)
    first.acquire(ANN, "noon")
    mark = Marks(tmp_path / "runners").new()
    with ExitStack() as plugged:
        folder = plugged.enter_context(vfio(tmp_path / "vfio", "0"))
        with holding(folder / "0", "stuck", mark=mark, inherit=(first.descriptor,)) as orphan:
            first.release()
            held = second.acquire(BOB, "later")
            plugged.close()
        assert held is not None
        assert held.controller == f"desk:7 left pid {orphan.pid} behind, which survives SIGKILL: restart the host"
    assert second.acquire(BOB, "later") is None


def test_lock_on_a_full_disk_is_taken_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    first = lock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        assert first.acquire(ANN, "noon") is None
    assert first.descriptor
    assert lock(tmp_path).acquire(BOB, "later") is not None
