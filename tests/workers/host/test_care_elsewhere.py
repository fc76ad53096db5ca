"""Two actors of one host, as on an embedded pool: a person speaks to the one that does not own it."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.lifecycle import HostState
from core.protocol import Care, Condition, Verb
from core.visit import Target
from infra.pool import HostSpec
from orchestrator.desk import Desk
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


async def test_release_by_another_actor_reaches_the_owner_of_a_host_that_nobody_drained(
    pair: tuple[HostService, HostService],
) -> None:
    owner, other = pair
    client = Client(owner, epoch=2)
    assert (await client.sync(wait_s=0.0)).releases == 0
    deadline = time.monotonic() + 20
    for releases in (1, 2):
        assert (await care(other, Verb.RELEASE)).refused == ""
        while (seen := await client.sync(wait_s=0.2)).releases < releases:
            assert time.monotonic() < deadline
        assert (seen.releases, seen.draining) == (releases, "")


async def test_release_ends_the_quarantine_that_the_owner_s_controller_has_its_host_in(
    pair: tuple[HostService, HostService],
) -> None:
    owner, other = pair
    client = Client(owner, epoch=2)
    desk = Desk(HostSpec(name="h", machine="m", target=Target(), selector={}))
    began = time.monotonic()
    while desk.state is not HostState.READY:
        assert time.monotonic() < began + 20
        desk.on_observation(await client.sync(wait_s=0.2), now=0.0)
    desk.quarantine("three bad visits", now=0.0)
    desk.on_observation(await client.sync(wait_s=0.2), now=0.0)
    assert desk.state is HostState.QUARANTINED
    await care(other, Verb.RELEASE)
    while desk.state is HostState.QUARANTINED:
        assert time.monotonic() < began + 40
        desk.on_observation(await client.sync(wait_s=0.2), now=0.0)
    assert desk.state is HostState.READY
