"""The evidence for a kill by the kernel: read from files as they look, and from a memory cgroup that really kills."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.failures import Kind
from core.visit import Phase
from tests.workers.conftest import MemoryCgroup
from workers.host.memory import OomWatch, counter, kills
from workers.host.verdict import Evidence, Verdict, verdict


def proc(folder: Path, cgroup: str, mounts: str) -> Path:
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts)
    return folder


@pytest.mark.parametrize(
    ("cgroup", "mount", "file"),
    [
        ("0::/user/app\n", "30 23 0:26 / {at} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate", "user/app/memory.events"),
        ("4:memory:/a\n0::/\n", "31 23 0:27 / {at} rw - cgroup cgroup rw,memory", "a/memory.oom_control"),
        # a container sees its own cgroup mounted, and itself by its path outside
        (
            "9:cpu,memory:/docker/7\n",
            "31 23 0:27 /docker/7 {at} rw - cgroup cgroup rw,cpu,memory",
            "memory.oom_control",
        ),
    ],
)
def test_counter_is_the_file_of_the_cgroup_in_both_versions(tmp_path: Path, cgroup: str, mount: str, file: str) -> None:
    at = tmp_path / "fs"
    (at / file).parent.mkdir(parents=True)
    (at / file).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    elsewhere = f"32 23 0:28 / {at} rw - cgroup cgroup rw,cpuset\n33 23 0:29 / / rw - ext4 /dev/vda rw\n"
    found = counter(proc(tmp_path, cgroup, elsewhere + mount.format(at=at) + "\n"))
    assert found == at / file
    assert kills(found) == 3


def test_counter_of_the_root_cgroup_of_version_2_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    mount = f"30 23 0:26 / {tmp_path / 'fs'} rw - cgroup2 cgroup2 rw\n"
    assert counter(proc(tmp_path, "0::/\n", mount)) is None


def test_watch_counts_from_its_beginning(tmp_path: Path) -> None:
    mount = f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n"
    file = tmp_path / "memory.events"
    file.write_text("oom 9\noom_kill 9\n")
    with OomWatch(tmp_path / "no log", proc(tmp_path, "0::/\n", mount)) as watch:
        assert watch.evidence(7) == ""
        file.write_text("oom 10\noom_kill 10\n")
        assert "counts 1 more oom_kill" in watch.evidence(7)
        file.unlink()
        assert watch.evidence(7) == ""


def test_watch_where_nothing_can_be_read_has_no_evidence(tmp_path: Path) -> None:
    with OomWatch(tmp_path / "no log", tmp_path / "no proc") as watch:
        assert watch.evidence(os.getpid()) == ""


LOGGED = "6,7,8,-;Memory cgroup out of memory: Killed process 77 (python) total-vm:9kB, anon-rss:8kB"


@pytest.mark.parametrize(
    ("pid", "evidence"),
    [
        (77, ""),
        (78, "the kernel's log: out of memory: Killed process 78 (python) total-vm:9kB, anon-rss:8kB"),
        (79, ""),
    ],
)
def test_watch_reads_the_pid_in_what_the_kernel_logged_since(tmp_path: Path, pid: int, evidence: str) -> None:
    log = tmp_path / "kmsg"
    log.write_text(LOGGED)
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns" / "pid").symlink_to("pid:[4026531836]")
    with OomWatch(log, proc(tmp_path, "", "")) as watch:
        with log.open("a") as more:
            more.write(LOGGED.replace("77", "78"))
        assert watch.evidence(pid) == evidence


def test_watch_in_a_container_does_not_take_the_kernels_pids_for_its_own(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.touch()
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns" / "pid").symlink_to("pid:[4026532000]")
    with OomWatch(log, proc(tmp_path, "", "")) as watch:
        log.write_text(LOGGED)
        assert watch.evidence(77) == ""


# -- a kernel that kills ----------------------------------------------------------------------------------------------


@pytest.fixture
def eater(memory_cgroup: MemoryCgroup) -> Iterator[subprocess.Popen[str]]:
    """A process in the cgroup that takes too much as soon as it is told to."""
    code = f"import sys; sys.stdin.readline(); {memory_cgroup.eat}"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    memory_cgroup.take(process.pid)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("log", ["/dev/kmsg", "/nowhere"])
def test_process_over_its_limit_is_killed_and_both_places_say_so(eater: subprocess.Popen[str], log: str) -> None:
    with OomWatch(Path(log), Path(f"/proc/{eater.pid}")) as watch:
        eater.communicate("go\n", timeout=60)
        assert eater.returncode == -signal.SIGKILL
        evidence = watch.evidence(eater.pid)
    if log == "/nowhere":
        assert "counts 1 more oom_kill" in evidence
    elif Path(log).exists():
        assert f"Killed process {eater.pid} (python" in evidence
    known = Evidence(eater.returncode, Phase.CHECK, "", oom=evidence)
    assert verdict(known) == Verdict(Kind.HOST_OOM, evidence)


@pytest.mark.slow
def test_process_below_its_limit_that_somebody_kills_leaves_no_evidence(eater: subprocess.Popen[str]) -> None:
    with OomWatch(proc=Path(f"/proc/{eater.pid}")) as watch:
        eater.kill()
        eater.wait()
        assert watch.evidence(eater.pid) == ""
