"""A disk is full: a host's, or the ledger's. A visit or the controller ends with a sentence, and nothing is lost."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.failures import Kind
from tests.disk import fill, free
from tests.faults.shell import Wire, drive
from tests.faults.trial import Trial

pytestmark = pytest.mark.slow

# Above what a host wants free before it takes a visit (`workers.host.disk.MIN_FREE_BYTES`).
HOST_MIB = 72
LEDGER_MIB = 4


class SmallDisk:
    def __init__(self, path: Path, mib: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("NOT TESTED: a full disk needs the right to mount a small one")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, int], SmallDisk]]:
    made: list[SmallDisk] = []

    def make(path: Path, mib: int) -> SmallDisk:
        made.append(SmallDisk(path, mib))
        return made[-1]

    yield make
    for disk in made:
        disk.unmount()


async def test_host_whose_disk_fills_under_a_visit_ends_it_and_its_block_goes_elsewhere(
    tmp_path: Path, small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    disk = small_disk(tmp_path / "state" / "one", HOST_MIB)
    # a run's samples are longer than what is left in the last page of a file
    trial = Trial(tmp_path, {}, "", groups=2, blocks=1, iters=1000, sleep_s=0.002)
    filled: list[str] = []

    def fill_one(host: str) -> None:
        if host == "one" and not filled and any(event["host"] == host for event in trial.events("runner_began")):
            fill(disk.path)
            filled.append(host)

    finish, said = await drive(trial, Wire(tmp_path / "state", fill_one), ["one", "two"])
    assert filled == ["one"]
    assert (finish.blocked, finish.paused) == ("", ""), said
    trial.assert_complete()
    failed = [visit for visit in trial.visits() if visit[2] == "failed"]
    assert [(host, kind) for _, host, _, kind in failed] == [("one", Kind.DISK.value)]
    # its last words came from memory, and say what to do
    (ended,) = [event for event in trial.events("visit_ended") if event["visit"] == failed[0][0]]
    assert "No space left" in ended["reason"]
    assert "free some space" in ended["reason"]
    assert [host for _, host, state, _ in trial.visits() if state == "finished"] == ["two", "two"]


def test_ledger_whose_disk_is_full_ends_its_controller_with_a_sentence_and_the_same_command_goes_on(
    trial: Callable[..., Trial], small_disk: Callable[[Path, int], SmallDisk]
) -> None:
    one = trial(groups=2, sleep_s=0.2)
    disk = small_disk(one.root / "small", LEDGER_MIB)
    one.ledger = disk.path / "ledger.db"
    driver = one.start()
    one.until_a_runner_measures()
    fill(disk.path)
    code = driver.wait(120)
    assert code == 2, one.said
    last = one.said.strip().splitlines()[-1]
    assert last.startswith("hillclimb: ")
    assert "full" in last
    assert "free some space" in last
    assert "Traceback" not in one.said
    free(disk.path)
    assert one.finish() == 0, one.said
    one.assert_complete()
