"""A real sshd of a test's own: on a free port of this machine, with keys, configuration and a home of its own.

It is the user's own process: whoever runs the tests logs in. Where sshd is missing the tests say so and are skipped.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from infra.pool import Machine
from tests.processes import children, is_gone, wait_until

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Sshd:
    """One sshd. `home` is what a session finds as its HOME; `client` that of who logs in, with key and known_hosts."""

    def __init__(self, folder: Path, force: str = "") -> None:
        assert SSHD is not None
        self.folder = folder
        self.home = folder / "home"
        self.client = folder / "client"
        self.user = getpass.getuser()
        self._force = force
        for path in (self.home, self.client / ".ssh"):
            path.mkdir(parents=True, mode=0o700)
        self.host_key = folder / "host_ed25519"
        self.key = self.client / ".ssh" / "id_ed25519"
        keygen(self.host_key)
        keygen(self.key)
        self.authorized = folder / "authorized_keys"
        self.authorized.write_text(self.public(self.key))
        self.authorized.chmod(0o600)
        self.known_hosts = self.client / ".ssh" / "known_hosts"
        self.options: list[str] = []
        self.port = free_port()
        self.start()
        self.trust()

    def start(self) -> None:
        """Also again, on the same port."""
        force = [f"ForceCommand {self._force}"] if self._force else []
        (self.folder / "sshd_config").write_text(
            "\n".join(
                [
                    f"Port {self.port}",
                    "ListenAddress 127.0.0.1",
                    f"HostKey {self.host_key}",
                    f"AuthorizedKeysFile {self.authorized}",
                    "PidFile none",
                    "UsePAM no",
                    "StrictModes no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PermitRootLogin prohibit-password",
                    "PrintMotd no",
                    f"SetEnv HOME={self.home}",
                    *force,
                    *self.options,
                    "",
                ]
            )
        )
        if os.getuid() == 0:
            # sshd's own, as its package makes it
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")], stdout=log, stderr=log
            )
        wait_until(self._listens, what="sshd")

    def _listens(self) -> bool:
        assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def trust(self) -> None:
        """What `ssh-keyscan` would write."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.public(self.host_key)}")

    @staticmethod
    def public(key: Path) -> str:
        return Path(f"{key}.pub").read_text()

    def machine(self, **fields: object) -> Machine:
        return Machine.model_validate({"name": "m", "address": "127.0.0.1", "port": self.port} | fields)

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection each."""
        return children(self.process.pid, "sshd")

    def signal_sessions(self, number: signal.Signals) -> None:
        """To every process of sshd that serves somebody, whatever user it runs as."""
        for session in self.sessions():
            for pid in [session, *children(session, "sshd")]:
                os.kill(pid, number)

    def end(self) -> None:
        """With all that serves somebody."""
        serving = [pid for session in self.sessions() for pid in [session, *children(session, "sshd")]]
        self.process.kill()
        self.process.wait()
        for pid in serving:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)

    def end_guests(self) -> None:
        """What was begun through it, and stays when a session ends: it has this HOME."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and f"HOME={self.home}".encode() in (entry / "environ").read_bytes().split(
                    b"\0"
                ):
                    os.kill(int(entry.name), signal.SIGKILL)


def keygen(path: Path, key_type: str = "ed25519", passphrase: str = "") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", key_type, "-N", passphrase, "-C", path.name, "-f", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def require_sshd() -> None:
    if SSHD is None:
        pytest.skip("NOT TESTED: SSH: there is no sshd here (Debian: apt install openssh-server)")


@pytest.fixture
def make_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sshd]]:
    """Makes sshds that are known and let us in. Who logs in has a HOME of the last one's making, and no agent."""
    require_sshd()
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made: list[Sshd] = []

    def make(force: str = "") -> Sshd:
        made.append(Sshd(tmp_path / f"sshd-{len(made)}", force=force))
        monkeypatch.setenv("HOME", str(made[-1].client))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.end()
            one.end_guests()


@pytest.fixture
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    return make_sshd()
