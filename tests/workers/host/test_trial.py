"""The throw-away start with real processes. What stands in for libtpu is the command, never the trial."""

import os
import sys
from pathlib import Path

import pytest

from core.failures import Kind
from core.visit import Platform, Target
from tests.vfio import vfio
from workers.host.code import RUNNER
from workers.host.marks import Marks
from workers.host.process import identify, is_alive
from workers.host.trial import Trial, Trouble

pytestmark = pytest.mark.slow

# Says who it is in a file, and goes on as the test wants.
START = """
import os, signal, subprocess, sys, time
with open(sys.argv[1], "w") as file: print(os.getpid(), os.environ["HILLCLIMB_RUNNER"], file=file)
"""


class Host:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.scratch = root / "scratch"
        self.scratch.mkdir()
        self.marks = Marks(root / "runners")

    def start(self, script: str, deadline_s: float = 60.0) -> Trouble | None:
        return self.run((sys.executable, "-c", START + script, str(self.root / "who")), Platform.TPU, deadline_s)

    def run(self, command: tuple[str, ...], platform: Platform, deadline_s: float = 240.0) -> Trouble | None:
        lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT)
        try:
            target = Target(platform=platform, devices=2)
            return Trial(target, self.scratch, self.marks, command, lock, 0.5, deadline_s)()
        finally:
            os.close(lock)

    def who(self) -> tuple[int, Path]:
        pid, mark = (self.root / "who").read_text().split()
        return int(pid), Path(mark)


def lives(pid: int) -> bool:
    identity = identify(pid)
    return identity is not None and is_alive(identity)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_trial_that_starts_leaves_nothing_behind(host: Host) -> None:
    assert host.start("") is None
    assert list(host.scratch.iterdir()) == []
    assert list((host.root / "runners").iterdir()) == []


def test_trial_that_fails_is_classified_by_its_words(host: Host) -> None:
    trouble = host.start("sys.exit('open(/dev/vfio/0): Device or resource busy')")
    assert trouble is not None
    assert trouble.kind is Kind.TPU_BUSY
    assert trouble.reason == "a trial start failed (exit 1): open(/dev/vfio/0): Device or resource busy"


def test_trial_that_dies_without_a_word_blames_no_job(host: Host) -> None:
    trouble = host.start("os.kill(os.getpid(), signal.SIGSEGV)")
    assert trouble is not None
    assert trouble == Trouble(Kind.WRONG_DEVICE, "a trial start failed (signal 11 (SIGSEGV))")


def test_trial_that_hangs_is_ended_with_its_children_and_says_so(host: Host) -> None:
    script = """
for number in (signal.SIGTERM, signal.SIGUSR1): signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1], "a") as file: print(child.pid, file=file)
time.sleep(600)
"""
    trouble = host.start(script, deadline_s=3.0)
    assert trouble is not None
    assert trouble.kind is Kind.INIT_HANG
    assert "did not end within 3 s" in trouble.reason
    pid, mark, child = (host.root / "who").read_text().split()
    assert not lives(int(pid))
    assert not lives(int(child))
    assert not Path(mark).exists()


def test_trial_that_survives_kill_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.host.process.GONE_S", 1.0)
    with vfio(host.root / "vfio", "0") as folder:
        trouble = host.start(f"os.read(os.open('{folder}/0', os.O_RDWR), 1)", deadline_s=3.0)
        pid, _ = host.who()
        assert trouble is not None
        assert trouble.kind is Kind.TPU_BUSY
        assert trouble.reason == f"the trial start survives SIGKILL as pid {pid}: restart the host"
        assert lives(pid)


def test_trial_of_the_real_runner_starts_the_devices_asked_for(host: Host) -> None:
    assert host.run(RUNNER, Platform.CPU) is None


def test_trial_of_the_real_runner_without_the_devices_asked_for_fails(host: Host) -> None:
    trouble = host.run(RUNNER, Platform.CUDA)
    assert trouble is not None
    assert trouble.kind is Kind.TPU_MISSING
    assert "does not start" in trouble.reason
