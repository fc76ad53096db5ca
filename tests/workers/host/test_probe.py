from pathlib import Path

import pytest

from core.events import Probed
from core.failures import Kind
from core.visit import Platform, Target
from tests.workers.host.holding import holding
from workers.host import disk, lockfile
from workers.host.holders import Places, holders
from workers.host.marks import Marks, Whose
from workers.host.probe import probe

CPU = Target(platform=Platform.CPU, devices=4)
TPU = Target(platform=Platform.TPU, devices=4)


class Host:
    """A folder of its own for everything that is looked at. The groups are files: opening one is all that counts."""

    def __init__(self, root: Path) -> None:
        self.state = root / "state"
        self.vfio = root / "vfio"
        self.sysfs = root / "iommu_groups"
        self.places = Places(self.vfio, self.sysfs, str(root / "accel"), root / "lockfile")
        self.marks = Marks(root / "runners")
        for folder in (self.state, self.vfio):
            folder.mkdir()

    def probe(self, target: Target) -> Probed:
        return probe(target, self.state, self.places, self.marks)

    def device(self, group: str, vendor: str) -> None:
        """sysfs knows a device of this vendor in the group."""
        folder = self.sysfs / group / "devices" / "0000:00:05.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_probe_on_a_cpu_host_is_clean_and_says_the_free_space(host: Host) -> None:
    seen = host.probe(CPU)
    assert (seen.clean, seen.kind) == (True, None)
    assert seen.free_disk_bytes > disk.MIN_FREE_BYTES
    assert list(host.state.iterdir()) == []


def test_probe_without_space_is_not_clean(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 1 << 60)
    seen = host.probe(CPU)
    assert (seen.clean, seen.kind) == (False, Kind.DISK)
    assert "free some space" in seen.reason


def test_probe_of_a_folder_that_cannot_be_written_is_not_clean(host: Host) -> None:
    host.state.rmdir()
    seen = host.probe(CPU)
    assert seen.kind is Kind.DISK
    assert str(host.state) in seen.reason


def test_probe_on_a_tpu_host_with_a_holder_names_it(host: Host) -> None:
    with holding(host.vfio / "0") as holder:
        seen = host.probe(TPU)
        assert (seen.clean, seen.kind) == (False, Kind.TPU_BUSY)
        assert f"{host.vfio}/0 is held by pid {holder.pid} (uid 0, foreign): " in seen.reason
        assert host.probe(CPU).clean
    assert host.probe(TPU).clean


def test_probe_sees_no_holder_in_the_control_node(host: Host) -> None:
    with holding(host.vfio / "vfio"):
        assert holders(host.places, host.marks) == []


def test_probe_counts_the_groups_of_google_alone_where_sysfs_knows_groups(host: Host) -> None:
    host.device("0", "0x1ae0")
    host.device("1", "0x15b3")
    with holding(host.vfio / "0"), holding(host.vfio / "1"):
        assert [holder.device for holder in holders(host.places, host.marks)] == [f"{host.vfio}/0"]


def test_probe_sees_the_holder_of_an_older_runtime_s_chip(host: Host) -> None:
    with holding(Path(f"{host.places.accel}0")):
        assert not host.probe(TPU).clean


def test_probe_names_who_has_libtpu_s_lock(host: Host) -> None:
    with holding(host.places.lockfile, "locked") as holder:
        assert lockfile.holder(host.places.lockfile) == holder.pid
        assert f"{host.places.lockfile} is held by pid {holder.pid}" in host.probe(TPU).reason
    assert host.places.lockfile.exists()
    assert host.probe(TPU).clean


def test_probe_of_a_mark_without_a_record_is_ours_and_stale(host: Host) -> None:
    with holding(host.vfio / "0", mark=host.marks.new()):
        (holder,) = holders(host.places, host.marks)
        assert holder.whose is Whose.STALE
