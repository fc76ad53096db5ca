"""A controller in the test's own process: real ledger, hosts and runners, a transport of chosen faults."""

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from core.code import code_hash
from core.ledger.writer import Ledger, OnChange
from core.matrix import expand
from core.visit import Target
from infra.bundle import Bundle
from infra.pool import HostSpec, LocalPool
from orchestrator.controller import Drive
from orchestrator.plan import Finish
from orchestrator.progress import Progress
from tests.faults.trial import Trial
from workers.host.config import HostConfig
from workers.host.service import HostService

Fault = Callable[[str], Exception | None]


class Wire:
    """Calls reach the services of the hosts, unless `fault(host)` says why not."""

    def __init__(self, state: Path, fault: Fault = lambda _: None) -> None:
        self.state = state
        self.fault = fault
        self._services: dict[str, HostService] = {}
        self._dying: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, host: str) -> None:
        if host in self._dying:
            await self._dying.pop(host)
        if host not in self._services:
            config = HostConfig(host=host, state=str(self.state / host), grace_s=0.5)
            self._services[host] = HostService(config)

    async def sync(self, host: str, call: str) -> str:
        if error := self.fault(host):
            raise error
        return await self.deliver(self._services[host], call)

    async def deliver(self, service: HostService, call: str) -> str:
        return await service.sync(call)

    def discard(self, host: str) -> None:
        """As `ray.kill` does: the actor is gone, and its runner with it."""
        if host in self._services:
            self._dying[host] = asyncio.create_task(self._services.pop(host).close())

    async def replace(self, _: str) -> bool:
        raise AssertionError("both speak one version")

    def reallocate(self, _: str) -> None:
        return None

    async def place(self, _host: str, _bundle: Bundle) -> None:
        raise AssertionError("no job names a revision")

    async def loss(self, _: str) -> None:
        return None

    async def close(self) -> None:
        await asyncio.gather(*self._dying.values(), *(service.close() for service in self._services.values()))


async def drive(trial: Trial, wire: Wire, hosts: Sequence[str]) -> tuple[Finish, str]:
    """Queues the trial's matrix and drives it to its end. Returns why it stopped, and what a person was told."""
    said = io.StringIO()
    specs = [HostSpec(name=host, machine=host, target=Target(), selector={}) for host in hosts]
    with Ledger.open(trial.ledger) as ledger:
        ledger.enqueue(expand(trial.matrix.read_text(), "matrix.toml"), code_hash(), OnChange.REFUSE)
        driving = Drive(
            ledger,
            specs,
            wire,
            Progress(Console(file=said), time.monotonic),
            code_hash(),
            {"trial"},
            LocalPool(),
            lambda _: None,
        )
        try:
            async with asyncio.timeout(180):
                return await driving.run(), said.getvalue()
        finally:
            await wire.close()
