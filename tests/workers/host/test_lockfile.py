import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vfio import needs_mounts
from tests.workers.host.holding import holding
from workers.host import lockfile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "libtpu_lockfile"


def test_lockfile_under_a_live_holder_keeps_its_inode(path: Path) -> None:
    with holding(path, "locked") as holder:
        inode = path.stat().st_ino
        assert lockfile.holder(path) == holder.pid
        assert lockfile.remove(path) == f"{path} is locked by pid {holder.pid}: end that process"
        assert path.stat().st_ino == inode
        with path.open("r+") as again, pytest.raises(BlockingIOError):
            fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lockfile_of_a_dead_holder_is_removed(path: Path) -> None:
    with holding(path, "locked"):
        pass
    assert path.exists()
    assert lockfile.holder(path) is None
    assert lockfile.remove(path) == ""
    assert not path.exists()


def test_lockfile_open_and_not_locked_is_removed(path: Path) -> None:
    with holding(path):
        assert lockfile.holder(path) is None
        assert lockfile.remove(path) == ""
        assert not path.exists()


def test_lockfile_that_is_not_there_is_removed(path: Path) -> None:
    assert lockfile.holder(path) is None
    assert lockfile.obstacle(path) == ""
    assert lockfile.remove(path) == ""


def test_lockfile_that_is_a_link_is_left_alone(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    path.symlink_to("precious")
    assert "cannot be opened" in lockfile.remove(path)
    assert path.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_lockfile_of_another_user_is_an_obstacle_that_root_removes(path: Path) -> None:
    path.touch(mode=0o600)
    assert lockfile.obstacle(path) == ""
    os.chown(path, 65534, 65534)
    assert lockfile.obstacle(path) == f"{path} belongs to uid 65534: remove it, as that user or as root"
    assert lockfile.remove(path) == ""
    assert not path.exists()


# The real libtpu, which takes its lock even to compile. Here /tmp has everything but the lock that others may have.
# Another process looks: one that closes a file gives up the locks that it has on it.
LIBTPU = """
import os, subprocess, sys
subprocess.run(["mount", "--bind", "/tmp", "/mnt"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/tmp"], check=True)
for name in set(os.listdir("/mnt")) - {"libtpu_lockfile"}: os.symlink(f"/mnt/{name}", f"/tmp/{name}")
from jax.experimental import topologies
topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1")
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
LOOK = """
from workers.host import lockfile
from workers.host.holders import Places
path = Places().lockfile
inode = path.stat().st_ino
print(lockfile.holder(path), lockfile.remove(path), path.stat().st_ino == inode, sep="\\n")
"""


@pytest.mark.slow
def test_lockfile_of_the_real_libtpu_keeps_its_inode_while_its_process_lives() -> None:
    needs_mounts()
    # a test that compiled for a TPU in this process may have switched the lock off
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "0"}
    command = ["unshare", "--mount", sys.executable, "-c", LIBTPU, LOOK]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as libtpu:
        said, errors = libtpu.communicate(timeout=120)
    assert said.splitlines() == [
        str(libtpu.pid),
        f"/tmp/libtpu_lockfile is locked by pid {libtpu.pid}: end that process",
        "True",
    ], errors
