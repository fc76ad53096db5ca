"""Where a ledger lies, and where it cannot."""

from pathlib import Path

import pytest

from core.ledger import paths
from core.ledger.errors import LedgerError
from core.ledger.paths import check_place, default_path, filesystem_of, lock_path


def test_option_goes_before_the_variable_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HILLCLIMB_LEDGER", raising=False)
    assert default_path(None) == Path("hillclimb.db")
    monkeypatch.setenv("HILLCLIMB_LEDGER", "/data/mine.db")
    assert default_path(None) == Path("/data/mine.db")
    assert default_path(Path("that.db")) == Path("that.db")


def test_two_names_of_a_ledger_share_a_lock(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "b.db").symlink_to("a.db")
    assert lock_path(tmp_path / "b.db") == lock_path(tmp_path / "." / "a.db") == tmp_path / "a.db.lock"


MOUNTS = """
22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/home rw
31 30 0:41 / /home/me/fast\\040disk rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/bucket rw - fuse.gcsfuse bucket rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/tmp", "ext4"),
        ("/home/me", "nfs4"),
        ("/homework", "ext4"),
        ("/home/me/fast disk/x", "xfs"),
        ("/mnt/bucket/a/b", "fuse.gcsfuse"),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path, directory: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS.lstrip())
    assert filesystem_of(Path(directory), tmp_path / "mountinfo") == kind


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "fuse.gcsfuse", "lustre"])
def test_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(paths, "filesystem_of", lambda _: kind)
    with pytest.raises(LedgerError, match=rf"network file system \({kind}\).*local disk with --ledger"):
        check_place(tmp_path / "l.db")


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "xfs", "btrfs", "fuse.testbed", ""])
def test_local_file_system_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(paths, "filesystem_of", lambda _: kind)
    check_place(tmp_path / "l.db")


@pytest.mark.parametrize("unwritable", ["directory", "file"])
def test_place_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unwritable: str
) -> None:
    path = tmp_path / "l.db"
    path.touch()
    refused = tmp_path if unwritable == "directory" else path
    # a test that runs as root may write anything
    monkeypatch.setattr(paths.os, "access", lambda p, _: p != refused)
    with pytest.raises(LedgerError, match=rf"you may not write {refused}: name a ledger of your own"):
        check_place(path)
