"""A switch and its cables: a bridge in a network namespace of its own, one cable to this machine, one to each other.

Its namespace is out of reach of this machine's firewall. It lives as long as a process whose standard input is a pipe
of the maker's: when the maker is killed the kernel takes the namespace, the bridge and all cables away.
"""

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Set aside for tests of network devices (RFC 2544); one /24 for each switch.
SUBNET = "198.19.{}"
SWITCHES = 250

HERE = "here"

WIRE = Path(__file__).with_name("wire.py")


class CannotConnect(Exception):
    """The kernel did not make or change a part of the network: says what, and its word."""


class Switch:
    """`address` is this machine's, as those who are plugged in see it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        # its echo says that it is in its namespace
        print("there", file=self._holder.stdin, flush=True)
        assert self._holder.stdout.readline() == "there\n", "no network namespace"
        self._wires: dict[str, subprocess.Popen[str]] = {}
        self._number = self._claim()
        self.address = self.address_of(1)
        self._ip("link", "add", "switch", "type", "bridge")
        self._ip("link", "set", "switch", "up")
        ip("addr", "add", f"{self.address}/24", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        self._join(HERE)

    @property
    def cable(self) -> str:
        """The cable's end on this machine."""
        return f"hctest{self._number}"

    def _claim(self) -> int:
        """The first number that no other switch of this machine has: the name of its cable is what claims it."""
        for self._number in range(SWITCHES):
            peer = ("type", "veth", "peer", "name", HERE, "netns", str(self._holder.pid))
            with suppress(CannotConnect):
                ip("link", "add", self.cable, *peer)
                return self._number
        raise CannotConnect(f"there are {SWITCHES} switches on this machine already")

    def address_of(self, number: int) -> str:
        return f"{SUBNET.format(self._number)}.{number}"

    def plug(self, name: str, number: int, process: int) -> None:
        """A cable to the network namespace of a process, with the address of that number. Its card is always the same
        one, so that who knew the address finds it there again.
        """
        card = f"02:00:00:00:00:{number:02x}"
        peer = ("type", "veth", "peer", "name", "eth0", "address", card, "netns", str(process))
        self._ip("link", "add", name, *peer)
        self._join(name)
        ip("addr", "add", f"{self.address_of(number)}/24", "dev", "eth0", within=process)
        ip("link", "set", "eth0", "up", within=process)
        ip("link", "set", "lo", "up", within=process)

    def unplug(self, name: str) -> None:
        """The cable is gone, and what was on it: nobody hears of it."""
        self.calm(name)
        self._ip("link", "del", name)

    def cut(self, name: str) -> None:
        self._ip("link", "set", name, "down")

    def heal(self, name: str) -> None:
        self._ip("link", "set", name, "up")

    def slow(self, name: str, delay_s: float, loss: float) -> None:
        """Frames on that cable take `delay_s` in each direction, and a fraction `loss` of them gets lost."""
        self.calm(name)
        near, far = f"{name}-slow", f"{name}-far"
        self._ip("link", "set", name, "nomaster")
        self._ip("link", "add", near, "type", "veth", "peer", "name", far)
        self._ip("link", "set", near, "master", "switch", "up")
        self._ip("link", "set", far, "up")
        wire = [*namespace(self._holder.pid), sys.executable, str(WIRE), name, far, str(delay_s), str(loss)]
        self._wires[name] = subprocess.Popen(wire, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._wires[name].stdout
        assert said is not None
        assert said.readline() == "carrying\n", f"no wire to {name}"

    def calm(self, name: str) -> None:
        """The cable is as it was."""
        if name in self._wires:
            self._wires.pop(name).communicate()
            self._ip("link", "del", f"{name}-slow")
            self._ip("link", "set", name, "master", "switch")

    def remove(self) -> None:
        for name in list(self._wires):
            self.calm(name)
        ip("link", "del", self.cable)
        self._holder.communicate()

    def _join(self, name: str) -> None:
        self._ip("link", "set", name, "master", "switch", "up")

    def _ip(self, *words: str) -> None:
        ip(*words, within=self._holder.pid)


def namespace(process: int) -> tuple[str, ...]:
    """The prefix of a command that runs in the network namespace of a process."""
    return ("nsenter", "--net", f"--target={process}")


def ip(*words: str, within: int = 0) -> None:
    """`ip` of this machine, or in the network namespace of a process. Raises CannotConnect."""
    command = [*(namespace(within) if within else ()), "ip", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotConnect(f"{shlex.join(command)}: {done.stderr}")
