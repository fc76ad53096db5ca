"""A Ray cluster of real processes on this machine: a head and one raylet for each host.

Every raylet carries our label and is a process of a session of its own, so that a host can be stopped, killed and
brought back while the others live. Nothing is shared between two clusters: ports, token, directories and the state of
the hosts are the cluster's own.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.processes import children, end_session, is_gone, wait_until

BIN = Path(sys.executable).parent

# A raylet takes 7-10 s on two idle cores. On busy ones Ray gives up after 30 s, and is asked again.
START_S = 300.0
GAVE_UP = "timed out during startup"

HEAD = "head"
RAYLET = "raylet/raylet "


class Cluster:
    """Made with a head; `start` adds hosts, `end` ends everything. `pool` is the file that attaches to it."""

    def __init__(
        self,
        root: Path,
        head_host: str | None = None,
        address: str = "127.0.0.1",
        settings: Mapping[str, str] | None = None,
        inside: Callable[[str], tuple[str, ...]] = lambda _: (),
    ) -> None:
        """`head_host`: the head is that host too. `settings`: environment of every Ray process, RAY_… for example.

        `inside(host)`: prefix of the command that starts a host's raylet, to put it elsewhere.
        """
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._inside = inside
        # the path of a raylet's socket may have 107 characters, which pytest's directories do not leave
        self._short = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
        self.token = root / "token"
        self.token.touch(mode=0o600)
        self.token.write_text("0123456789abcdef" * 4)
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        self.address = f"{address}:{port}"
        ray = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._ray_environment = os.environ | ray | (settings or {})
        self.state = root / "state"
        # what a controller of this cluster runs under
        self.environment = os.environ | {"HILLCLIMB_STATE": str(self.state)} | (settings or {})
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._commands: dict[str, list[str | Path]] = {}
        # by host, what tells its raylet from those it had before (infra.pool.RAYLET_LABEL)
        self.raylets: dict[str, str] = {}
        self.pool = self.pool_file("pool")
        options = ("--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=1")
        try:
            self._launch(HEAD, head_host, f"--node-ip-address={address}", *options)
            self._await(HEAD)
        except AssertionError:
            self.end()
            raise

    def pool_file(self, name: str, **fields: object) -> Path:
        """A pool file that attaches to this cluster, with these fields too, as TOML values."""
        path = self._root / f"{name}.toml"
        given = {"kind": '"ray"', "address": f'"{self.address}"', "token": f'"{self.token}"'} | fields
        tables = {key: value for key, value in given.items() if isinstance(value, dict)}
        lines = [f"{key} = {value}" for key, value in given.items() if key not in tables]
        for name, table in tables.items():
            lines += [f"[{name}]", *(f"{key} = {value}" for key, value in table.items())]
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self, *hosts: str, address: str = "127.0.0.1") -> None:
        """Starts the raylets of these hosts, side by side, also those that were there before.

        Every host is a machine of its own.
        """
        for host in hosts:
            if host in self._processes:
                end_session(self._processes[host])
            # a session directory of its own: raylets that start at once in one take the same socket (Ray 2.60)
            own = self._short / host
            ports = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
            joined = (f"--address={self.address}", f"--node-ip-address={address}", f"--temp-dir={own}")
            self._launch(host, host, *joined, *ports, "--num-cpus=1")
        for host in hosts:
            self._await(host)

    def end(self) -> None:
        for process in self._processes.values():
            end_session(process)
        shutil.rmtree(self._short)

    def raylet(self, host: str) -> int:
        """The pid of a host's raylet. Its parent, `ray start --block`, reaps it: its workers wait for that.

        Raises ValueError when it has none.
        """
        (pid,) = children(self._processes[host].pid, RAYLET)
        return pid

    def has_raylet(self, host: str) -> bool:
        return bool(children(self._processes[host].pid, RAYLET))

    def actor(self, host: str) -> int | None:
        """The pid of a host's actor, if it has one."""
        found = children(self.raylet(host), "HostActor") if self.has_raylet(host) else []
        return found[0] if found else None

    def free(self) -> None:
        """Ends the actors of all hosts, whoever they work for: the next one begins as the next test wants it."""
        for host in self._processes.keys() - {HEAD}:
            if (actor := self.actor(host)) is not None:
                os.kill(actor, signal.SIGKILL)
                wait_until(partial(is_gone, actor), what=f"the end of the actor on {host}")

    def _launch(self, name: str, host: str | None, *options: str) -> None:
        labels: tuple[str, ...] = ()
        if host is not None:
            self.raylets[host] = secrets.token_hex(6)
            raylet = f"hillclimb-raylet={self.raylets[host]}"
            labels = (f"--labels=hillclimb-host={host},hillclimb-machine={host},{raylet}",)
        ray = (BIN / "ray", "start", "--block", "--object-store-memory=80000000", "--include-log-monitor=false")
        self._commands[name] = [*(() if host is None else self._inside(host)), *ray, *options, *labels]
        self._spawn(name)

    def _spawn(self, name: str) -> None:
        with self._log(name).open("w") as out:
            self._processes[name] = subprocess.Popen(
                self._commands[name],
                env=self._ray_environment,
                start_new_session=True,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def _await(self, name: str) -> None:
        def is_up() -> bool:
            said = self._log(name).read_text()
            if self._processes[name].poll() is not None:
                assert GAVE_UP in said, f"{name} ended: {said}"
                end_session(self._processes[name])
                self._spawn(name)
            return "will now block forever" in said

        wait_until(is_up, START_S, f"the raylet of {name}")

    def _log(self, name: str) -> Path:
        return self._root / f"{name}.log"
