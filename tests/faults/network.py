"""Hosts behind links that can be cut: a network namespace each, joined to this machine by a bridge."""

import os
import subprocess

import pytest


class Network:
    """A bridge with an address of this machine's, and a namespace at the end of a cable for each host."""

    def __init__(self) -> None:
        # the kernel allows 15 characters for a name
        self._name = f"hc{os.getpid() % 100_000}"
        self._subnet = f"10.77.{os.getpid() % 250}"
        self._hosts: list[str] = []
        if self._ip("link", "add", self._name, "type", "bridge").returncode:
            pytest.skip("this user cannot make networks")
        self._must("addr", "add", f"{self.address}/24", "dev", self._name)
        self._must("link", "set", self._name, "up")

    @property
    def address(self) -> str:
        """This machine's."""
        return f"{self._subnet}.1"

    def plug(self, host: str) -> str:
        """A namespace for a host. Returns its address."""
        self._hosts.append(host)
        number = len(self._hosts)
        address, space, cable = f"{self._subnet}.{number + 1}", self._space(host), self._cable(host)
        self._must("netns", "add", space)
        self._must("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._must("link", "set", cable, "master", self._name)
        self._must("link", "set", cable, "up")
        for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            self._must("-n", space, *words)
        self._must("-n", space, "link", "set", "lo", "up")
        return address

    def inside(self, host: str) -> tuple[str, ...]:
        """The prefix of a command that runs on the host's side."""
        return ("ip", "netns", "exec", self._space(host)) if host in self._hosts else ()

    def cut(self, host: str) -> None:
        self._must("link", "set", self._cable(host), "down")

    def heal(self, host: str) -> None:
        self._must("link", "set", self._cable(host), "up")

    def remove(self) -> None:
        for host in self._hosts:
            self._must("link", "del", self._cable(host))
            self._must("netns", "del", self._space(host))
        self._must("link", "del", self._name)

    def _space(self, host: str) -> str:
        return f"{self._name}-{host}"

    def _cable(self, host: str) -> str:
        return f"{self._name}-{host}"

    def _must(self, *words: str) -> None:
        done = self._ip(*words)
        assert done.returncode == 0, done.stderr

    @staticmethod
    def _ip(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
