import subprocess
import sys
from pathlib import Path

import pytest

from core.failures import Kind
from core.visit import Platform, Target
from workers.host import disk
from workers.host.holders import holders
from workers.host.probe import probe

CPU = Target(platform=Platform.CPU, devices=4)
TPU = Target(platform=Platform.TPU, devices=4)


@pytest.fixture
def held(tmp_path: Path):
    """A stand-in for /dev/vfio with group 0 open in a process; yields the folder and the process."""
    folder = tmp_path / "vfio"
    folder.mkdir()
    code = "import sys; group = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder / "0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield folder, process
        process.kill()


def test_probe_on_a_cpu_host_is_clean_and_says_the_free_space(tmp_path: Path) -> None:
    seen = probe(CPU, tmp_path)
    assert seen.kind is None
    assert seen.clean
    assert seen.free_disk_bytes > disk.MIN_FREE_BYTES
    assert list(tmp_path.iterdir()) == []


def test_probe_without_space_is_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 1 << 60)
    seen = probe(CPU, tmp_path)
    assert seen.kind is Kind.DISK
    assert not seen.clean
    assert "free some space" in seen.reason


def test_probe_of_a_folder_that_cannot_be_written_is_not_clean(tmp_path: Path) -> None:
    seen = probe(CPU, tmp_path / "missing")
    assert seen.kind is Kind.DISK
    assert str(tmp_path / "missing") in seen.reason


def test_probe_on_a_tpu_host_with_a_holder_names_it(tmp_path: Path, held) -> None:
    folder, process = held
    seen = probe(TPU, tmp_path, devices=f"{folder}/")
    assert seen.kind is Kind.TPU_BUSY
    assert f"{folder}/0 is held by pid {process.pid}" in seen.reason
    assert probe(CPU, tmp_path, devices=f"{folder}/").kind is None


def test_probe_on_a_tpu_host_whose_holder_is_gone_is_clean(tmp_path: Path, held) -> None:
    folder, process = held
    process.kill()
    process.wait()
    assert probe(TPU, tmp_path, devices=f"{folder}/").kind is None


def test_holders_have_pid_uid_and_command(held) -> None:
    folder, process = held
    (holder,) = holders(f"{folder}/")
    assert (holder.pid, holder.device) == (process.pid, f"{folder}/0")
    assert "sys.stdin.read()" in holder.command
