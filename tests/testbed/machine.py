"""A machine of a testbed: what a host on a network is to those who only have its address, made of namespaces.

It has its own address, host name, processes, /tmp, /dev (with a stand-in for /dev/vfio), homes, accounts, host key and
sshd, and is cut off, slowed down, halted and booted by itself. Everything it runs ends with its first process, and that
one with its maker. Homes and host key live as long as the testbed; /tmp and the boot id last for one boot.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests import vfio
from tests.processes import is_gone, stat, wait_until
from tests.testbed import init
from tests.testbed.accounts import ACCOUNTS, PATH, ROOT, SYSTEM_PATH, Account, new_key, write_etc, write_home
from tests.testbed.switch import Switch

REPOSITORY = Path(__file__).parents[2]

NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")

# Directories of this machine that another one does not show.
OWN = ("/tmp", "/var/tmp", "/run", "/home", "/root", "/dev", str(REPOSITORY))

# A machine boots in a second; on a busy one everything takes longer.
BOOTS_S = 60.0


class Process(NamedTuple):
    """A process of a machine. `pid` is this machine's number for it, `inner` the machine's own."""

    pid: int
    inner: int
    argv: tuple[str, ...]


class Machine:
    """Made halted. `name` is its host name, too; `number` the last part of its address."""

    def __init__(
        self, root: Path, switch: Switch, name: str, number: int, addresses: Mapping[str, str], keys: Mapping[str, str]
    ) -> None:
        """`keys`: the public key that may log in, by account."""
        self.name = name
        self.address = addresses[name]
        self._switch = switch
        self._number = number
        self._root = root / name
        self._init: subprocess.Popen[str] | None = None
        self.pid = 0
        write_etc(self._root / "etc", name, addresses)
        for account in ACCOUNTS:
            write_home(self._home(account), account, keys[account.name])

    # -- on and off ---------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        (self._root / "boot_id").write_text(f"{uuid.uuid4()}\n")
        told = init.Boot(
            hostname=self.name,
            etc=str(self._root / "etc"),
            homes={account.home: str(self._home(account)) for account in ACCOUNTS},
            boot_id=str(self._root / "boot_id"),
            keep=[path for path in (sys.base_prefix, sys.prefix) if _is_covered(path)],
            hide=[str(REPOSITORY)],
            vfio=vfio.__file__,
            groups=["0"],
        )
        command = ["unshare", *NAMESPACES, "--fork", sys.executable, init.__file__, json.dumps(told._asdict())]
        self._init = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PATH": SYSTEM_PATH}, text=True
        )
        assert self._init.stdout is not None
        self.pid = int(self._init.stdout.readline())
        assert self._init.stdout.readline() == "up\n", f"{self.name} did not boot"
        self._switch.plug(self.name, self._number, self.pid)
        self.start_sshd()

    def halt(self) -> None:
        """As a power cut does: everything it ran is gone, and nobody is told."""
        self._switch.unplug(self.name)
        self._end()

    def reboot(self) -> None:
        self.halt()
        self.boot()

    def remove(self) -> None:
        """It, and what it kept."""
        self._end()
        shutil.rmtree(self._root)

    def _end(self) -> None:
        if self._init is not None:
            # the end of its first process's input, which is the end of that one and so of all others
            self._init.communicate()
            self._init = None

    # -- its cable ----------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        self._switch.cut(self.name)

    def heal(self) -> None:
        self._switch.heal(self.name)

    def slow(self, delay_s: float = 0.0, loss: float = 0.0) -> None:
        """Every frame takes `delay_s` longer each way, and a fraction `loss` of them gets lost. Until `calm`."""
        self._switch.slow(self.name, delay_s, loss)

    def calm(self) -> None:
        self._switch.calm(self.name)

    @property
    def retransmitted(self) -> int:
        """TCP segments that it sent again, since it booted."""
        lines = Path(f"/proc/{self.pid}/net/snmp").read_text().splitlines()
        names, values = [line.split() for line in lines if line.startswith("Tcp:")]
        return int(values[names.index("RetransSegs")])

    # -- its sshd -----------------------------------------------------------------------------------------------------

    def start_sshd(self) -> None:
        """Returns when it listens."""
        self.run([str(shutil.which("sshd", path=SYSTEM_PATH)), "-f", "/etc/ssh/sshd_config"])
        wait_until(self.outside("/run/sshd.pid").exists, BOOTS_S, f"sshd on {self.name}")

    def kill_sshd(self) -> None:
        """The daemon and all its sessions: connections are closed, new ones refused."""
        self._kill(self._sshd())
        self.outside("/run/sshd.pid").unlink()

    def refuse(self) -> None:
        """The daemon only: connections stay, new ones are refused."""
        daemon = int(self.outside("/run/sshd.pid").read_text())
        self._kill([process for process in self._sshd() if process.inner == daemon])
        self.outside("/run/sshd.pid").unlink()

    def hang_sshd(self) -> None:
        """Daemon and sessions stand still: connections are taken by the kernel, and nobody answers."""
        self._signal_sshd(signal.SIGSTOP)

    def resume_sshd(self) -> None:
        self._signal_sshd(signal.SIGCONT)

    @property
    def has_sshd(self) -> bool:
        """Whether the daemon is there, answering or not."""
        return self.outside("/run/sshd.pid").exists()

    def new_host_key(self) -> None:
        """As after a machine was set up anew: what the next daemon shows is another key."""
        new_key(self._root / "etc" / "ssh" / "host_key")

    def change_host_key(self) -> None:
        """Sessions that there are stay."""
        self.refuse()
        self.new_host_key()
        self.start_sshd()

    @property
    def host_key(self) -> str:
        """What a line of known_hosts holds after the address."""
        kind, key, *_ = (self._root / "etc" / "ssh" / "host_key.pub").read_text().split()
        return f"{kind} {key}"

    def _signal_sshd(self, number: signal.Signals) -> None:
        for process in self._sshd():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def _sshd(self) -> list[Process]:
        """The daemon and what it became for each session: they write over their command lines."""
        return [process for process in self.processes() if "sshd" in process.argv[0]]

    # -- who may log in -----------------------------------------------------------------------------------------------

    def authorize(self, account: Account, public_key: str) -> None:
        """One more key that may log in to an account."""
        with (self._home(account) / ".ssh" / "authorized_keys").open("a") as keys:
            print(public_key, file=keys)

    def deauthorize(self, account: Account, public_key: str) -> None:
        keys = self._home(account) / ".ssh" / "authorized_keys"
        keys.write_text("".join(f"{key}\n" for key in keys.read_text().splitlines() if key != public_key))

    # -- what is on it ------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], account: Account = ROOT) -> str:
        """A command on the machine, to its end. Returns its output. Raises CalledProcessError."""
        into = ("nsenter", f"--target={self.pid}", *NAMESPACES, f"--setuid={account.number}")
        environment = {"HOME": account.home, "PATH": PATH}
        return subprocess.run(
            [*into, f"--setgid={account.number}", *argv], check=True, stdout=subprocess.PIPE, env=environment, text=True
        ).stdout

    def outside(self, path: str) -> Path:
        """Where a path of the machine's lies for this one, until it is halted."""
        return Path(f"/proc/{self.pid}/root{path}")

    def small_disk(self, path: str, mib: int, account: Account) -> Path:
        """A disk of its own at `path`, the account's, until the next boot. Returns where it lies for this one."""
        self.run(["mkdir", "-p", path])
        options = f"size={mib}m,mode=0755,uid={account.number},gid={account.number}"
        self.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path])
        return self.outside(path)

    def lives(self, inner: int, start_time: int) -> bool:
        """Whether it has a process of that number, as it counts them, since that time (field 22 of /proc/PID/stat)."""
        try:
            fields = self.outside(f"/proc/{inner}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        return fields[0] not in "ZX" and int(fields[19]) == start_time

    def processes(self, command: str = "") -> list[Process]:
        """Those whose command line holds `command`."""
        space = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if (entry / "ns" / "pid").readlink() != space or stat(int(entry.name))[0] == "Z":
                    continue
                argv = tuple((entry / "cmdline").read_text().split("\0"))
                (inner,) = [line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid")]
            except OSError:
                continue
            if command in " ".join(argv):
                found.append(Process(int(entry.name), int(inner.split()[-1]), argv))
        return found

    def end(self, command: str) -> list[Process]:
        """Kills the processes whose command line holds `command`. Returns them, gone."""
        ended = self.processes(command)
        self._kill(ended)
        return ended

    def _kill(self, processes: Sequence[Process]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):  # a session that ends by itself
                os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: all(is_gone(pid) for pid, *_ in processes), what=f"the end of {processes} on {self.name}")

    def _home(self, account: Account) -> Path:
        return self._root / "home" / account.name


def _is_covered(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in OWN)
