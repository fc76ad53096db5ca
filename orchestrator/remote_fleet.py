"""The actors of an ssh pool: reached through a relay on the machine of Ray's head, their raylets looked at over SSH.

Ray's health checks are slower than a host's patience, so Ray takes a raylet that was killed for one that cannot be
reached, and would have its actor waited for, half an hour and more. So whenever a host has not answered its raylet is
looked at over SSH as well: where it is gone another is started, and the actor of the old one is given up. Nothing less
is evidence: an actor behind a cut link lives and works on.

What blocks is beside the conversations: a relay that is lost, or a machine that does not answer, holds up no other.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from core.failures import Kind
from infra.bundle import Bundle
from infra.commands import run_command
from infra.pool import HostSpec, SshPool
from orchestrator.aside import aside
from orchestrator.relay_link import RelayLink
from orchestrator.relayed import Do, Setup, Wanted
from orchestrator.revival import Revival
from orchestrator.transport import CutOff, HostDown, HostSilent, Loss
from workers.host.config import HostConfig

if TYPE_CHECKING:
    from infra.cluster import Cluster

# An actor that is there is found, and one that is not is made, within a second or two.
LOOK_S = 5.0

# A miss must not wait for its reason.
LOSS_S = 2.0

# Deleting a machine and making another takes a cloud minutes.
REALLOCATE_S = 900.0


class RemoteFleet:
    """`orchestrator.transport.Transport` and `orchestrator.care.Reach`. The first `ensure` begins a relay."""

    def __init__(
        self, pool: SshPool, cluster: "Cluster", config: Callable[[HostSpec], HostConfig], renew: bool = True
    ) -> None:
        """`config` is called in threads, for hosts that answer over SSH, and may ask them. `renew`: see `Wanted`."""
        self._pool = pool
        self._cluster = cluster
        self._config = config
        self._renew = renew
        self._specs = {spec.name: spec for spec in pool.specs()}
        self._wanted: dict[str, Wanted] = {}
        self._revivals = {name: Revival(name, partial(self._revive, name)) for name in self._specs}
        self._link = RelayLink(cluster.relay, self._setup)

    def _setup(self) -> Setup:
        return Setup(address=self._cluster.address, token=self._cluster.token, hosts=tuple(self._specs.values()))

    def _revive(self, host: str) -> str:
        """In a thread. Raises PoolError."""
        raylet = self._cluster.revive(host)
        config, options = self._config(self._specs[host]), self._cluster.actor_options(host)
        self._wanted[host] = Wanted(raylet=raylet, config=config, options=options, renew=self._renew)
        return raylet

    async def ensure(self, host: str) -> None:
        """Finds the host's actor, or makes it, and its raylet before. Raises HostDown, HostSilent.

        An actor that is asked for on a raylet that is gone pends for ever: the raylet is looked at meanwhile, too.
        """
        revival = self._revivals[host]
        while True:
            raylet = await revival.raylet()
            await self._link.up()
            asking = asyncio.create_task(self._link.ask(Do.ENSURE, host, self._wanted[host].model_dump_json()))
            try:
                while not (await asyncio.wait({asking}, timeout=LOOK_S))[0] and await revival.raylet() == raylet:
                    pass
                if asking.done():
                    asking.result()
                    return
            finally:
                asking.cancel()

    async def sync(self, host: str, call: str) -> str:
        """One call of the protocol, both ways as JSON. Raises HostDown, HostSilent."""
        said = await self._link.ask(Do.SYNC, host, call)
        self._revivals[host].on_answer()
        return said

    async def care(self, host: str, text: str) -> str:
        """A person's call, both ways as JSON. Raises HostDown, HostSilent."""
        return await self._link.ask(Do.CARE, host, text)

    def discard(self, host: str) -> None:
        """Forgets the host's actor and frees its name. Without a relay the next one will ask for this again."""
        self._revivals[host].doubt()
        with suppress(HostSilent):
            self._link.post(Do.DISCARD, host)

    async def replace(self, host: str) -> bool:
        """Ends the host's actor, which is of another version, unless somebody needs it. Returns whether it is gone."""
        return bool(await self._link.ask(Do.REPLACE, host))

    async def loss(self, host: str) -> Loss | None:
        """What is known of the host's end: by SSH, else by Ray. Raises CutOff: without a relay no host is asked."""
        if silence := self._link.silence:
            raise CutOff(silence)
        if loss := self._revivals[host].loss:
            return loss
        with suppress(HostDown, HostSilent, TimeoutError):
            async with asyncio.timeout(LOSS_S):
                kind, _, reason = (await self._link.ask(Do.LOSS, host)).partition(" ")
            return Loss(Kind(kind), reason) if kind else None
        return None

    async def place(self, host: str, bundle: Bundle) -> None:
        """Puts another revision of the code there. Raises PoolError."""
        await asyncio.wrap_future(aside(partial(self._cluster.place, host, bundle), f"place on {host}"))

    def reallocate(self, host: str) -> Coroutine[Any, Any, str] | None:
        """Has the host's machine replaced: "" when that is done, else what went wrong.

        None: the pool cannot. Nor may it where Ray's head is, on which all other hosts hang.
        """
        command = self._pool.arguments(self._pool.reallocate, host)
        return self._reallocate(host, command) if command and host != self._pool.head_machine().name else None

    async def _reallocate(self, host: str, command: list[str]) -> str:
        wrong = await run_command(command, REALLOCATE_S)
        # whatever came of it, the machine at that address may be another now
        await asyncio.wrap_future(aside(partial(self._cluster.forget, host), f"forget {host}"))
        return wrong

    def close(self) -> None:
        """Lets the relay go. The actors live on."""
        self._link.close()
