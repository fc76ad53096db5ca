"""The Ray actor pinned on a host: `sync` for controllers, `care` for people.

Whoever creates it gives it a name, a lifetime and a label to be pinned by. It is never restarted and its calls are
never repeated by Ray: retries belong to the plan.
"""

from typing import Any

from workers.host.config import HostConfig
from workers.host.service import HostService


class HostActor:
    """One host of a pool."""

    def __init__(self, config: str) -> None:
        """`config` is JSON of `workers.host.config.HostConfig`."""
        self._config = config
        self._service = HostService(HostConfig.model_validate_json(config))

    async def sync(self, text: str) -> str:
        """JSON of `core.protocol.Call` in, JSON of `core.protocol.Observation` out."""
        return await self._service.sync(text)

    async def care(self, text: str) -> str:
        """JSON of `core.protocol.Care` in, JSON of `core.protocol.Condition` out."""
        return await self._service.care(text)

    async def is_outlived(self, config: str) -> bool:
        """Whether it was made for another config than this one and nobody needs it: another can take its place."""
        return config != self._config and self._service.is_free


def actor_class() -> Any:
    """`HostActor` as Ray wants it."""
    import ray

    # It holds no CPU: Ray must not keep a host waiting for one that a benchmark has. But it asks for something, a byte
    # of memory. Who asks for nothing, pinned or not, is handed to a node drawn by lot, to be found a place from there
    # (2.60): one that was killed, and that Ray believes alive, keeps it for as long as Ray believes that.
    return ray.remote(num_cpus=0, memory=1, max_restarts=0, max_task_retries=0)(HostActor)
