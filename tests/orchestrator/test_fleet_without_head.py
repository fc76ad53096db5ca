"""A fleet whose Ray head does not answer: a stand-in for Ray refuses as its client does."""

from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray.exceptions import RpcError

from core.visit import Target
from infra.pool import HostSpec
from orchestrator import fleet
from orchestrator.fleet import Fleet
from orchestrator.transport import HostSilent
from workers.host.config import HostConfig


class Headless:
    """What `actor_class()` returns, and `ray` as far as a fleet kills by it."""

    def __init__(self) -> None:
        self.asked = 0

    def options(self, **_: Any) -> "Headless":
        return self

    def remote(self, _: str) -> NoReturn:
        self.asked += 1
        raise RpcError("failed to connect to GCS")

    def kill(self, *_: object, **__: object) -> NoReturn:
        self.asked += 1
        raise RpcError("failed to connect to GCS")


async def test_fleet_whose_head_is_gone_calls_its_hosts_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headless = Headless()
    monkeypatch.setattr(fleet, "actor_class", lambda: headless)
    monkeypatch.setattr(fleet, "ray", headless)
    spec = HostSpec(name="h", machine="m", target=Target(), selector={})
    found = Fleet([spec], {"h": HostConfig(host="h", state=str(tmp_path))})
    with pytest.raises(HostSilent, match="failed to connect to GCS"):
        await found.ensure("h")
    assert headless.asked == 1
    found._handles["h"] = object()  # as one that was found before the head went
    found.discard("h")
    assert headless.asked == 2
    with pytest.raises(HostSilent, match="nobody has looked"):
        await found.sync("h", "{}")
