"""Actor handles: one detached Ray actor a host, pinned by our label, found again by its name.

Retries belong to the plan, so actors are never restarted by Ray. "Ray says the actor died" means only that: the handle
is dropped (its name freed with `ray.kill` first) and the next call makes a new actor, which tells from its spool what
became of the old one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayError

from infra.pool import HostSpec
from orchestrator.controller import HostDown, HostSilent
from workers.actor import HostActor, actor_class
from workers.host.config import HostConfig


class Fleet:
    """The pool's actors by host name."""

    def __init__(self, hosts: Sequence[HostSpec], configs: dict[str, HostConfig]) -> None:
        self._hosts = {h.name: h for h in hosts}
        self._configs = configs
        self._handles: dict[str, ActorHandle[HostActor]] = {}

    async def sync(self, host: str, call: str) -> str:
        """One call of the protocol, both ways as JSON. Raises HostDown, HostSilent."""
        with _as_ours():
            return str(await self._handles[host].sync.remote(call))

    async def ensure(self, host: str) -> None:
        """Finds the host's actor, or makes it. Raises HostDown, HostSilent.

        Waits for as long as Ray does: for ever, without an error, where no node matches the selector.
        """
        if host in self._handles:
            return
        spec = self._hosts[host]
        handle = (
            actor_class()
            .options(name=f"host:{host}", lifetime="detached", get_if_exists=True, label_selector=spec.selector or None)
            .remote(self._configs[host].model_dump_json())
        )
        self._handles[host] = handle
        with _as_ours():
            await handle.__ray_ready__.remote()

    def discard(self, host: str) -> None:
        """Forgets the host's actor and frees its name: whatever it was running is killed with it."""
        handle = self._handles.pop(host, None)
        if handle is not None:
            ray.kill(handle, no_restart=True)


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
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
