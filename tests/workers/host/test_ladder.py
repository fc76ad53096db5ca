"""The ladder against real holders of real descriptors: a stand-in for /dev/vfio whose groups really are busy."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from core.events import Rung
from core.failures import Kind
from tests.vfio import vfio
from tests.workers.host.holding import HOLD, holding
from workers.host.child import Child
from workers.host.holders import Holder, Places, holders
from workers.host.ladder import Ladder
from workers.host.marks import Marks, Whose
from workers.host.process import Identity, identify, is_alive
from workers.host.trial import Trouble

pytestmark = pytest.mark.slow

# A runner whose grandchild in a session of its own opens the group, says who it is, and outlives it.
RUNNER = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HOLD!r}, sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
os.write(int(sys.argv[-1]), b"%d\\n" % child.pid)
if "stay" in sys.argv: import time; time.sleep(600)
"""


class Host:
    """A host with one chip, and a trial start that opens it as libtpu does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plugged = ExitStack()
        self.places = Places(root / "vfio", root / "no sysfs", str(root / "accel"), root / "lockfile")
        self.marks = Marks(root / "runners")
        self.rungs: list[Rung] = []
        self.trials = 0

    @property
    def group(self) -> Path:
        return self.places.vfio / "0"

    def trial(self) -> Trouble | None:
        self.trials += 1
        try:
            os.close(os.open(self.group, os.O_RDWR))
        except OSError as error:
            assert error.errno == errno.EBUSY
            return Trouble(Kind.TPU_BUSY, str(error))
        return None

    def climb(self, kill_foreign: bool = False) -> Trouble | None:
        self.rungs.clear()
        return Ladder(self.places, self.marks, 1.0, kill_foreign, self.trial).climb(self.rungs.append)

    @property
    def steps(self) -> list[tuple[str, bool]]:
        return [(rung.step, rung.good) for rung in self.rungs]

    def holders(self) -> list[Holder]:
        return holders(self.places, self.marks)

    @contextmanager
    def unplugged_after(self) -> Iterator[None]:
        """Takes the chips away, which frees whoever sits in the kernel."""
        try:
            yield
        finally:
            self.plugged.close()

    def is_busy(self) -> bool:
        return self.trial() is not None


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    with host.plugged:
        host.plugged.enter_context(vfio(host.places.vfio, "0", "1", "vfio"))
        yield host


async def runner(host: Host, *how: str) -> tuple[Child, Identity]:
    """A real runner of this host, and its grandchild that has the group."""
    command = (sys.executable, "-c", RUNNER, str(host.group), *how)
    child = await Child.spawn(command, env=os.environ, cwd=host.root, inherit=(), marks=host.marks)
    grandchild = identify(int(await child.events.readline()))
    assert grandchild is not None
    return child, grandchild


async def end(child: Child) -> None:
    child.signal_group(signal.SIGKILL)
    await child.exited
    await child.drain(asyncio.create_task(asyncio.sleep(0)))


async def test_ladder_ends_the_orphan_of_a_runner_that_is_gone(host: Host) -> None:
    child, orphan = await runner(host)
    await child.exited
    try:
        assert host.is_busy()
        (holder,) = host.holders()
        assert (holder.identity, holder.whose, holder.device) == (orphan, Whose.STALE, str(host.group))
        assert await asyncio.to_thread(host.climb) is None
        assert host.steps == [
            ("holders", False),
            ("term", True),
            ("released", True),
            ("lockfile", True),
            ("trial", True),
        ]
        assert f"pid {orphan.pid} (uid 0, ours and stale)" in host.rungs[0].detail
        assert not is_alive(orphan)
        assert not host.is_busy()
    finally:
        await end(child)


async def test_ladder_spares_the_grandchild_of_a_runner_that_lives(host: Host) -> None:
    child, grandchild = await runner(host, "stay")
    try:
        assert [holder.whose for holder in host.holders()] == [Whose.LIVE]
        trouble = await asyncio.to_thread(host.climb, kill_foreign=True)
        assert trouble is not None
        assert trouble.kind is Kind.TPU_BUSY
        assert "ours and live" in trouble.reason
        assert trouble.in_use
        assert host.steps == [("holders", False), ("released", False)]
        assert is_alive(grandchild)
    finally:
        await end(child)
        os.kill(grandchild.pid, signal.SIGKILL)


def test_ladder_names_a_foreign_holder_and_leaves_it_alone(host: Host) -> None:
    with holding(host.group, "nobody") as holder:
        trouble = host.climb()
        assert trouble is not None
        assert trouble.kind is Kind.TPU_BUSY
        assert f"{host.group} is held by pid {holder.pid} (uid 65534, foreign): {sys.executable}" in trouble.reason
        assert "kill_foreign" in trouble.reason
        assert trouble.in_use
        assert is_alive(holder)
        assert host.trials == 0


def test_ladder_of_a_pool_that_says_so_ends_a_foreign_holder(host: Host) -> None:
    with holding(host.group) as holder:
        assert host.climb(kill_foreign=True) is None
        assert not is_alive(holder)
        assert host.steps[1] == ("term", True)


def test_ladder_takes_a_process_of_another_state_directory_for_foreign(host: Host, tmp_path: Path) -> None:
    other = Marks(tmp_path / "other").new()
    with holding(host.group, mark=other) as holder:
        assert host.climb() is not None
        assert is_alive(holder)


def test_ladder_kills_a_holder_that_ignores_term(host: Host) -> None:
    with holding(host.group, "stubborn", mark=host.marks.new()) as holder:
        assert host.climb() is None
        assert host.steps[1:4] == [("term", False), ("kill", True), ("released", True)]
        assert f"SIGKILL to pid {holder.pid}: gone" in host.rungs[2].detail


def test_ladder_names_a_holder_that_survives_kill_in_the_kernel(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its main thread is a zombie by then and only the thread in the kernel has the descriptor."""
    monkeypatch.setattr("workers.host.ladder.GONE_S", 1.0)
    with holding(host.group, "stuck", mark=host.marks.new()) as holder, host.unplugged_after():
        trouble = host.climb()
        assert trouble is not None
        assert trouble.kind is Kind.TPU_BUSY
        assert f"pid {holder.pid} (uid 0, unkillable)" in trouble.reason
        assert "restart the host" in trouble.reason
        assert not trouble.in_use
        assert host.steps == [("holders", False), ("term", False), ("kill", False), ("released", False)]
        assert host.trials == 0


def test_ladder_removes_no_lockfile_that_a_foreign_holder_has_locked(host: Host) -> None:
    with holding(host.places.lockfile, "locked") as holder:
        inode = host.places.lockfile.stat().st_ino
        trouble = host.climb()
        assert trouble is not None
        assert f"{host.places.lockfile} is held by pid {holder.pid}" in trouble.reason
        assert trouble.in_use
        assert host.places.lockfile.stat().st_ino == inode
        assert is_alive(holder)


def test_ladder_ends_an_orphan_that_has_libtpu_s_lock_and_no_chip(host: Host) -> None:
    with holding(host.places.lockfile, "locked", mark=host.marks.new()) as holder:
        assert host.climb() is None
        assert not is_alive(holder)
        assert not host.places.lockfile.exists()


def test_ladder_of_a_free_host_does_no_more_than_look_and_try(host: Host) -> None:
    assert host.climb() is None
    assert host.steps == [("holders", True), ("lockfile", True), ("trial", True)]
    assert host.trials == 1


# A climb where the host's other processes cannot be seen, as from inside a container.
ELSEWHERE = r"""
import sys
from pathlib import Path
from tests.workers.host.test_ladder import Host
host = Host(Path(sys.argv[1]))
trouble = host.climb(kill_foreign=True)
print(*host.steps, trouble.kind, trouble.reason, sep="\n")
"""


def test_ladder_says_of_a_holder_that_nobody_can_see_that_it_is_invisible(host: Host) -> None:
    with holding(host.group) as holder:
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", ELSEWHERE, str(host.root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        *steps, kind, reason = done.stdout.splitlines()
        assert steps == ["('holders', True)", "('lockfile', True)", "('trial', False)"]
        assert kind == "tpu_busy"
        assert "the holder is invisible: look for it as root and outside this container" in reason
        assert is_alive(holder)
