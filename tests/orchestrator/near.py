"""An ssh pool whose hosts are raylets of this machine: what `infra.cluster.Cluster` is to a fleet, without SSH.

Its relay is a real one, a process of its own behind pipes. A host's raylet is a real one too, and comes back for real.
"""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.visit import Target
from infra.bundle import Bundle
from infra.pool import HOST_LABEL, HostSpec, PoolError, SshPool
from infra.ssh import SshError
from tests.cluster import Cluster
from workers.host.config import HostConfig

ROOT = Path(__file__).resolve().parents[2]

# How long a wait goes without looking whether the session was closed.
SLICE_S = 0.02


def _is_ready(descriptor: int, event: int) -> bool:
    """Or closed at the other end. Waits for SLICE_S at most."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(1000 * SLICE_S))


class Session:
    """A program here, as `infra.ssh.Process` has one elsewhere: closing takes its input and output away, no more."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=env, start_new_session=True
        )
        os.set_blocking(self._in, False)
        self.is_closed = False

    @property
    def _in(self) -> int:
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    @property
    def _out(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, data: bytes) -> None:
        while data:
            self._look()
            if _is_ready(self._in, select.POLLOUT):
                try:
                    data = data[os.write(self._in, data) :]
                except OSError as error:
                    raise SshError(f"the program has ended: {error}") from error

    def receive(self, size: int, timeout_s: float) -> bytes:
        for _ in range(max(1, round(timeout_s / SLICE_S))):
            self._look()
            if _is_ready(self._out, select.POLLIN):
                return os.read(self._out, size)
        raise TimeoutError

    @property
    def stderr(self) -> str:
        descriptor = self._errors.fileno()
        return os.pread(descriptor, 4096, max(0, os.fstat(descriptor).st_size - 4096)).decode()

    def close(self) -> None:
        self.is_closed = True
        with suppress(OSError):
            self.process.stdin.close()

    def end(self) -> None:
        """What a test does when it is over."""
        self.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._errors.close()

    def _look(self) -> None:
        if self.is_closed:
            raise SshError("the session was closed")


class NearCluster:
    """`infra.cluster.Cluster` of hosts that a test's cluster has."""

    def __init__(self, cluster: Cluster, state: Path, *names: str) -> None:
        self._cluster = cluster
        self._state = state
        self.address = cluster.address
        self.token = str(cluster.token)
        self.hosts = [HostSpec(name=n, machine=n, target=Target(), selector={HOST_LABEL: n}) for n in names]
        self.sessions: list[Session] = []
        self.looks: list[str] = []
        self.forgotten: list[str] = []
        # hosts that do not answer over SSH
        self.unreachable: set[str] = set()

    def config(self, host: HostSpec) -> HostConfig:
        return HostConfig(host=host.name, state=str(self._state / host.name), grace_s=0.5)

    def actor_options(self, _: str) -> dict[str, Any]:
        return {"runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}, "py_executable": sys.executable}}

    def relay(self) -> Session:
        session = Session(sys.executable, "-m", "orchestrator.relay", env=os.environ | {"PYTHONPATH": str(ROOT)})
        self.sessions.append(session)
        return session

    def revive(self, host: str) -> str:
        self.looks.append(host)
        if host in self.unreachable:
            raise SshError(f"{host}: no answer within 10 s: check that it is up")
        if not self._cluster.has_raylet(host):
            self._cluster.start(host)
        return self._cluster.raylets[host]

    def forget(self, host: str) -> None:
        self.forgotten.append(host)

    def place(self, host: str, bundle: Bundle) -> None:
        raise PoolError(f"{host}: no room for {bundle.id}: free some space there")

    def end(self) -> None:
        for session in self.sessions:
            session.end()


def pool(*names: str, **fields: Any) -> SshPool:
    hosts = {name: {"address": f"{name}.example", "accelerator": "cpu"} for name in names}
    return SshPool.model_validate({"kind": "ssh", "hosts": hosts} | fields)
