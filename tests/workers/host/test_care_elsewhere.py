"""Two actors of one host, as on an embedded pool: a person speaks to the one that does not own it."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.protocol import Care, Condition, Verb
from tests.workers.host.test_service import Client
from workers.host.config import HostConfig
from workers.host.service import HostService


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[HostService, HostService]]:
    """The owner, whose controller is ann's, and another actor."""
    owner, other = (HostService(HostConfig(host="h", state=str(tmp_path))) for _ in range(2))
    await Client(owner).sync(wait_s=0.0)
    yield owner, other
    await owner.close()
    await other.close()


async def care(service: HostService, verb: Verb, why: str = "") -> Condition:
    asked = Care(verb=verb, user="bob", machine="laptop", why=why)
    return Condition.model_validate_json(await service.care(asked.model_dump_json()))


async def test_check_by_another_actor_says_who_has_the_host(pair: tuple[HostService, HostService]) -> None:
    owner, other = pair
    seen = await care(other, Verb.CHECK)
    assert seen.held is not None
    assert (seen.held.user, seen.held.controller) == ("ann", "desk:7")
    assert seen.held == (await care(owner, Verb.CHECK)).held
    await owner.close()
    assert (await care(other, Verb.CHECK)).held is None


async def test_drain_and_release_by_another_actor_reach_the_owner(pair: tuple[HostService, HostService]) -> None:
    owner, other = pair
    client = Client(owner, epoch=2)
    await care(other, Verb.DRAIN, "its disk is changed")
    deadline = time.monotonic() + 20
    while not (seen := await client.sync(wait_s=0.2)).draining:
        assert time.monotonic() < deadline
    assert "its disk is changed; `hillclimb pool release`" in seen.draining
    await care(other, Verb.RELEASE)
    while (seen := await client.sync(wait_s=0.2)).draining:
        assert time.monotonic() < deadline
    assert seen.releases == 1
