"""Actor handles: one detached Ray actor a host, pinned by our label, found again by its name.

Retries belong to the plan, so actors are never restarted by Ray. "Ray says the actor died" means only that: the handle
is dropped (its name freed with `ray.kill` first) and the next call makes a new actor, which tells from its spool what
became of the old one.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError

from core.failures import Kind
from infra.bundle import Bundle
from infra.pool import RAYLET_LABEL, HostSpec, PoolError
from orchestrator.placing import ONE_CODE
from orchestrator.transport import HostDown, HostSilent, Loss
from workers.actor import HostActor, actor_class
from workers.host.config import HostConfig

# Ray's head answers within milliseconds; one that does not is asked again at the next miss.
NODES_S = 1.0

# ray.core.generated.common_pb2.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED: what a node's death says when it was drained
# because its machine is taken away.
PREEMPTED = 3


class Fleet:
    """The pool's actors by host name."""

    def __init__(
        self,
        hosts: Sequence[HostSpec],
        configs: Mapping[str, HostConfig],
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`options`: of a host's actor, as Ray takes them."""
        self._hosts = {h.name: h for h in hosts}
        self._configs = configs
        self._options = {} if options is None else options
        self._handles: dict[str, ActorHandle[HostActor]] = {}
        self._raylets: dict[str, str] = {}
        self._looking: asyncio.Task[list[dict[str, Any]]] | None = None

    async def sync(self, host: str, call: str) -> str:
        """One call of the protocol, both ways as JSON. Raises HostDown, HostSilent."""
        with _as_ours():
            return str(await self._handle(host).sync.remote(call))

    async def care(self, host: str, care: str) -> str:
        """A person's call, both ways as JSON. Raises HostDown, HostSilent."""
        handle = self._handle(host)
        if not hasattr(handle, "care"):
            raise HostSilent("its actor is of an earlier version: a controller that drives the pool replaces it")
        with _as_ours():
            return str(await handle.care.remote(care))

    async def ensure(self, host: str, raylet: str = "", renew: bool = True) -> None:
        """Finds the host's actor, or makes it. Raises HostDown, HostSilent.

        One that was made for another pool file gives way when no ledger owns it, if it is to `renew`. Waits for as long
        as Ray does: for ever, without an error, where no node matches the selector.

        `raylet`: the one that lives on the host, where somebody has looked (`infra.pool.RAYLET_LABEL`). The actor of
        another is dead, which Ray may not know for an hour: to wait for it would be to wait for that.
        """
        if self._raylets.get(host, "") != raylet:
            self.discard(host)
            self._raylets[host] = raylet
        if host in self._handles:
            return
        config = self._configs[host].model_dump_json()
        with _as_ours():
            handle = self._handles[host] = self._find_or_make(host, config)
            await handle.__ray_ready__.remote()
            # an actor of an earlier version does not know the question: the protocol has its own answer to that
            if renew and hasattr(handle, "is_outlived") and await handle.is_outlived.remote(config):
                self.discard(host)
                handle = self._handles[host] = self._find_or_make(host, config)
                await handle.__ray_ready__.remote()

    def _handle(self, host: str) -> ActorHandle[HostActor]:
        if host not in self._handles:
            raise HostSilent("nobody has looked for its actor yet")
        return self._handles[host]

    def _find_or_make(self, host: str, config: str) -> ActorHandle[HostActor]:
        name, selector, raylet = f"host:{host}", self._hosts[host].selector, self._raylets.get(host)
        if raylet:
            # both are the raylet's own, so that neither the name nor the place of a dead one's actor is in the way
            name, selector = f"{name}@{raylet}", selector | {RAYLET_LABEL: raylet}
        handle: ActorHandle[HostActor] = (
            actor_class()
            .options(
                name=name,
                lifetime="detached",
                get_if_exists=True,
                label_selector=selector or None,
                **self._options.get(host, {}),
            )
            .remote(config)
        )
        return handle

    async def place(self, host: str, bundle: Bundle) -> None:
        """Puts a code bundle where the host's actor looks for it, on this machine. Raises PoolError."""
        bundles = self._configs[host].bundles
        if not bundles:
            raise PoolError(ONE_CODE)
        # what it is made of also speaks SSH, which a relay has no need of
        from infra.sync import place_here

        await asyncio.to_thread(place_here, bundle, Path(bundles))

    def discard(self, host: str) -> None:
        """Forgets the host's actor and frees its name: whatever it was running is killed with it."""
        handle = self._handles.pop(host, None)
        # where Ray's head does not answer the actor is found again by its name, and discarded then
        with suppress(RayError):
            if handle is not None:
                ray.kill(handle, no_restart=True)

    async def replace(self, host: str) -> bool:
        """Ends the host's actor, which is of another version, unless somebody needs it. Returns whether it is gone.

        Raises HostDown, HostSilent.
        """
        handle = self._handle(host)
        with _as_ours():
            # It was made for no such config, and says whether it is free. One too old for the question may not be.
            if not hasattr(handle, "is_outlived") or not await handle.is_outlived.remote(""):
                return False
        self.discard(host)
        return True

    def reallocate(self, _: str) -> None:
        """Nobody has other machines for this pool."""

    async def loss(self, host: str) -> Loss | None:
        """What Ray knows of the host's end: that all its nodes are dead. None when it knows of none."""
        selector = self._hosts[host].selector
        if not selector:
            return None
        nodes = [node for node in await self._nodes() if selector.items() <= node["Labels"].items()]
        if not nodes or any(node["Alive"] for node in nodes):
            return None
        return _loss(nodes[-1])

    async def _nodes(self) -> list[dict[str, Any]]:
        """Asked in a thread, by one at a time: a head that is gone answers nobody for long."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(ray.nodes))
        await asyncio.wait({self._looking}, timeout=NODES_S)
        is_known = self._looking.done() and self._looking.exception() is None
        return self._looking.result() if is_known else []


def _loss(node: Mapping[str, Any]) -> Loss:
    if node["DeathReason"] == PREEMPTED:
        return Loss(Kind.PREEMPTED, "it was preempted")
    said = str(node["DeathReasonMessage"]).strip()
    return Loss(Kind.RAYLET_LOST, f"its Ray node is dead{f': {said}' if said else ''}")


@contextmanager
def _as_ours() -> Iterator[None]:
    """Ray's errors as what they mean to a controller."""
    try:
        yield
    except ActorDiedError as e:
        raise HostDown(_sentence(e)) from e
    except RayError as e:
        raise HostSilent(_sentence(e)) from e


def _sentence(error: Exception) -> str:
    """Its first line; of an exception inside an actor that one's, not Ray's account of where it was."""
    lines = str(getattr(error, "cause", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
