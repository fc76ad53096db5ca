"""The machine-wide lock among real users, in a directory that all may write."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.protocol import Controller
from workers.host.lock import HostLock
from workers.host.marks import Marks
from workers.host.shared import NotShared

ANN = Controller(user="ann", machine="desk", pid=7)

# Two users that own nothing else here.
ANN_UID, BOB_UID = 54321, 54322

two_users = pytest.mark.skipif(os.geteuid() != 0, reason="becoming two users needs root")

# Becomes the user once everything is read, which that user may not. Takes the lock for a name, says who has it
# otherwise, and keeps it until its stdin ends. Its kernel has fs.protected_regular set, wherever this runs.
TAKING = """
import os, sys
from pathlib import Path
from core.protocol import Controller
from workers.host.lock import HostLock
from workers.host.marks import Marks
from workers.host.shared import NotShared

path, state, uid, name = sys.argv[1:]
os.setgroups([])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
os.umask(0o077)

def protected_regular(event, arguments):
    if event == "open" and str(arguments[0]) == path and arguments[2] & os.O_CREAT:
        if os.path.exists(path) and os.stat(path).st_uid != os.geteuid():
            raise PermissionError("fs.protected_regular")

sys.addaudithook(protected_regular)
lock = HostLock(Path(path), Marks(Path(state)), 0.5)
try:
    held = lock.acquire(Controller(user=name, machine="lab", pid=1), "noon")
    print(f"{held.user} {held.controller} {held.since}" if held else "taken", flush=True)
except NotShared as refused:
    print(refused, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory such as /tmp: all may write, nobody may remove what is another's."""
    folder = Path(tempfile.mkdtemp(prefix="hc-lock-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def taking(path: Path, uid: int, name: str) -> Iterator[str]:
    """A process of user `uid` that takes the lock for `name`: what it says. It ends with the block."""
    state = path.parent / f"state-of-{uid}"
    process = subprocess.Popen(
        [sys.executable, "-c", TAKING, str(path), str(state), str(uid), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def lock(path: Path, state: Path) -> HostLock:
    return HostLock(path, Marks(state / "runners"), grace_s=0.5)


@two_users
def test_shared_lock_of_one_user_is_seen_held_by_the_other_and_taken_when_it_is_free(shared: Path) -> None:
    path = shared / "host.lock"
    with taking(path, ANN_UID, "ann") as ann:
        assert ann == "taken"
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (ANN_UID, 0o666)
        with taking(path, BOB_UID, "bob") as bob:
            assert bob == "ann lab:1 noon"
    with taking(path, BOB_UID, "bob") as bob:
        assert bob == "taken"
        with taking(path, ANN_UID, "ann") as ann:
            assert ann == "bob lab:1 noon"
        assert path.stat().st_uid == ANN_UID


@two_users
def test_shared_lock_is_seen_by_root_and_the_reverse(shared: Path, tmp_path: Path) -> None:
    path = shared / "host.lock"
    mine = lock(path, tmp_path)
    with taking(path, ANN_UID, "ann"):
        held = mine.acquire(Controller(user="root", machine="desk", pid=2), "evening")
        assert held is not None
        assert held.user == "ann"
    assert mine.acquire(Controller(user="root", machine="desk", pid=2), "evening") is None
    with taking(path, BOB_UID, "bob") as bob:
        assert bob == "root desk:2 evening"


@two_users
def test_shared_lock_that_another_user_keeps_to_himself_is_refused_with_the_way_out(shared: Path) -> None:
    path = shared / "host.lock"
    path.touch(mode=0o600)
    with taking(path, BOB_UID, "bob") as said:
        assert said == f"{path} is not for all users: `chmod 666` it as its owner or as root"
    path.chmod(0o666)
    with taking(path, BOB_UID, "bob") as said:
        assert said == "taken"


def _symlink(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _second_name(path: Path) -> None:
    path.hardlink_to(path.parent / "precious")


@pytest.mark.parametrize("plant", [_symlink, _dangling, os.mkfifo, _socket, Path.mkdir, _second_name])
def test_shared_lock_where_something_else_was_planted_is_refused_and_nothing_is_touched(
    shared: Path, tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    (shared / "precious").write_text("precious")
    path = shared / "host.lock"
    plant(path)
    mine = lock(path, tmp_path)
    with pytest.raises(NotShared, match=r"host\.lock .*: find out who put it there, and remove it"):
        mine.acquire(ANN, "noon")
    assert mine.other() is None
    assert (shared / "precious").read_text() == "precious"
    assert not (shared / "nothing").exists()


@pytest.mark.parametrize(
    "words", [b'{"user": "\\u001b[31m", "controller": "c", "since": "s"}', b"[" * 1_000_000, b"\0"]
)
def test_shared_lock_with_words_that_are_not_fit_to_be_shown_shows_none(
    shared: Path, tmp_path: Path, words: bytes
) -> None:
    path = shared / "host.lock"
    with path.open("wb") as file:
        file.write(words)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        held = lock(path, tmp_path).acquire(ANN, "noon")
    assert held is not None
    assert (held.user, held.since) == ("unknown", "unknown")
