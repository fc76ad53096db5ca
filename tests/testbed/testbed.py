"""A testbed: real hosts on one machine, and the people who drive them from here.

Two testbeds at once share nothing: network, machines, keys and directories are each testbed's own, and all of it ends
with the process that made it, however that ends.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cluster import BIN
from tests.testbed.accounts import ACCOUNTS, ANN, BOB, SYSTEM_PATH, Account, new_key
from tests.testbed.machine import NAMESPACES, Machine
from tests.testbed.switch import HERE, Switch
from workers.host.process import Identity

PROGRAMS = ("unshare", "nsenter", "mount", "ip", "sshd", "ssh-keygen")

# Longer than any command takes here that is not a run: with a raylet to start, the better part of a minute.
SAYS_S = 400.0


class Person:
    """Somebody who drives the machines from here: a home with a key and known hosts, and an account on each machine."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self.home = home
        self.ssh = home / ".ssh"
        self.ssh.mkdir(parents=True, mode=0o700)
        self.key = self.ssh / "id_ed25519"
        self.public_key = new_key(self.key)
        ours = {name for name in os.environ if name.startswith(("HILLCLIMB_", "RAY_", "SSH_", "XDG_"))}
        mine = {"HOME": str(home), "USER": name, "LOGNAME": name}
        self.environment = {key: value for key, value in os.environ.items() if key not in ours} | mine

    def knows(self, *machines: Machine) -> None:
        """Their host keys as they are now, and no others."""
        lines = [f"{machine.address} {machine.host_key}\n" for machine in machines]
        (self.ssh / "known_hosts").write_text("".join(lines))

    def says(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """`hillclimb WORDS`, in this person's home, to its end."""
        return subprocess.run(
            [BIN / "hillclimb", *words],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=SAYS_S,
        )


class Testbed:
    """Machines by name, all booted; `ann` and `bob`, who know them. A context manager."""

    __test__ = False

    def __init__(self, root: Path, *names: str) -> None:
        needs_rights()
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self.people = {account.name: Person(root / "people" / account.name, account.name) for account in ACCOUNTS}
        self.ann, self.bob = self.people[ANN.name], self.people[BOB.name]
        keys = {name: person.public_key for name, person in self.people.items()}
        self.switch = Switch()
        self.machines: dict[str, Machine] = {}
        # the first address is this machine's
        numbers = {name: number for number, name in enumerate(names, 2)}
        addresses = {name: self.switch.address_of(number) for name, number in numbers.items()}
        try:
            for name, number in numbers.items():
                self.machines[name] = Machine(root, self.switch, name, number, addresses, keys)
                self.machines[name].boot()
        except BaseException:
            self.remove()
            raise
        for person in self.people.values():
            person.knows(*self.machines.values())

    def __enter__(self) -> "Testbed":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def lives(self, host: str, process: Identity) -> bool:
        """Whether a process of a machine does, named as the machine names it."""
        return self[host].lives(process.pid, process.start_time)

    def free(self) -> None:
        """Ends the actors of all machines, whoever they work for: the next one begins as the next test wants it."""
        for machine in self.machines.values():
            machine.end("ray::HostActor")

    def cut(self) -> None:
        """The link of the people's own machine."""
        self.switch.cut(HERE)

    def heal(self) -> None:
        self.switch.heal(HERE)

    def slow(self, delay_s: float = 0.0, loss: float = 0.0) -> None:
        self.switch.slow(HERE, delay_s, loss)

    def calm(self) -> None:
        self.switch.calm(HERE)

    def remove(self) -> None:
        for machine in self.machines.values():
            machine.remove()
        self.switch.remove()

    def pool_file(
        self,
        name: str,
        hosts: Mapping[str, Mapping[str, object]] | None = None,
        account: Account = ANN,
        **keys: object,
    ) -> Path:
        """A pool of these machines, or all, with further keys of theirs: its file. `keys` are of the pool, also instead
        of those it has here; None leaves one out. `python` is the one that runs the tests, which every machine shows.
        """
        given = {"kind": "ssh", "user": account.name, "python": sys.executable, "accelerator": "cpu-1"} | keys
        chosen: Mapping[str, Mapping[str, object]] = hosts or {name: {} for name in self.machines}
        tables = {f"hosts.{host}": {"address": self[host].address, **own} for host, own in chosen.items()}
        path = self._root / f"{name}.toml"
        path.write_text(_toml(given) + "".join(f"[{table}]\n{_toml(values)}" for table, values in tables.items()))
        return path


def _toml(values: Mapping[str, object]) -> str:
    # a JSON value is a TOML value as long as there is no null in it
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value is not None)


def needs_rights() -> None:
    """Skips the test where this user or machine cannot make a testbed."""
    lacking = [program for program in PROGRAMS if not shutil.which(program, path=SYSTEM_PATH)]
    if not os.access("/dev/fuse", os.W_OK):
        lacking.append("/dev/fuse")
    if not lacking:
        probe = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, check=False)
        if probe.returncode:
            lacking.append("the right to make namespaces")
    if lacking:
        pytest.skip(f"NOT TESTED: a testbed of hosts needs {', '.join(lacking)} here")
