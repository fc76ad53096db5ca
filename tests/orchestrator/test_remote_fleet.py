"""A fleet behind a relay on a Ray cluster of real processes, whose relay, raylets and SSH are taken away."""

import asyncio
import io
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from core.code import code_hash
from core.failures import Kind
from core.ledger.writer import Ledger, OnChange
from core.matrix import expand
from core.protocol import Call, Controller, Observation
from infra.bundle import Bundle
from infra.pool import PoolError
from orchestrator.controller import Drive
from orchestrator.progress import Progress
from orchestrator.remote_fleet import RemoteFleet
from orchestrator.transport import CutOff, HostDown, HostSilent
from tests.conftest import Cluster, wait_until
from tests.orchestrator.near import NearCluster, pool
from tests.orchestrator.test_end_to_end import MATRIX, assert_complete, rows
from tests.processes import is_gone

pytestmark = pytest.mark.slow

# Slower than anything here lasts, as on a pool of real hosts: what is gone is found out without Ray.
PATIENT = {"RAY_health_check_failure_threshold": "1000", "RAY_gcs_rpc_server_reconnect_timeout_s": "3600"}

# A raylet that has to come back, on a machine under load.
BACK_S = 240.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        cluster = Cluster(tmp_path_factory.mktemp("ray"), settings=PATIENT)
        try:
            cluster.start("a", "b")
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def near(cluster: Cluster, tmp_path: Path) -> Iterator[NearCluster]:
    cluster.free()
    near = NearCluster(cluster, tmp_path / "hosts", "a", "b")
    yield near
    near.end()


@pytest.fixture
def fleet(near: NearCluster) -> Iterator[RemoteFleet]:
    fleet = RemoteFleet(pool("a", "b"), near, near.config)
    yield fleet
    fleet.close()


class Talk:
    """One ledger's calls to the host a."""

    def __init__(self, fleet: RemoteFleet, epoch: int = 1) -> None:
        self._fleet = fleet
        self._epoch = epoch
        self._generation = 0
        self._heard: Observation | None = None

    async def once(self, wait_s: float = 0) -> Observation:
        self._generation += 1
        wanted = Call(
            ledger_id="hers",
            controller=Controller(user="ann", machine="lab", pid=7),
            epoch=self._epoch,
            generation=self._generation,
            spool_id=self._heard and self._heard.spool_id,
            acked_seq=self._heard.last_seq if self._heard else 0,
            wait_s=wait_s,
        )
        self._heard = Observation.model_validate_json(await self._fleet.sync("a", wanted.model_dump_json()))
        return self._heard

    async def until_answered(self) -> Observation:
        """As a controller does: what is down is discarded, and whatever does not answer is looked for again."""
        async with asyncio.timeout(BACK_S):
            while True:
                try:
                    await self._fleet.ensure("a")
                    return await asyncio.wait_for(self.once(), 10)
                except HostDown:
                    self._fleet.discard("a")
                except (HostSilent, TimeoutError):
                    await asyncio.sleep(0.2)


async def _silence_of(waiting: Awaitable[object]) -> str:
    with pytest.raises(HostSilent) as silence:
        await waiting
    return str(silence.value)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_fleet_whose_raylet_ends_makes_another_actor_on_the_next(
    cluster: Cluster, fleet: RemoteFleet, end: signal.Signals
) -> None:
    """One that is killed Ray takes for one that cannot be reached, for an hour; of one that is stopped it says so, and
    then an actor is asked for while another raylet is only being started."""
    talk = Talk(fleet)
    spool = (await talk.until_answered()).spool_id
    actor, raylet = cluster.actor("a"), cluster.raylets["a"]
    assert actor is not None
    os.kill(cluster.raylet("a"), end)
    await asyncio.to_thread(wait_until, lambda: is_gone(actor), what="the end of the actor")
    with pytest.raises(HostSilent if end is signal.SIGKILL else (HostDown, HostSilent)):
        await asyncio.wait_for(talk.once(), 60)
    assert await fleet.loss("a") is None
    seen = await talk.until_answered()
    assert cluster.raylets["a"] != raylet
    assert cluster.actor("a") not in {None, actor}
    # it is the same host: what its spool holds is not lost
    assert seen.spool_id == spool


async def test_fleet_of_a_later_controller_does_not_wait_for_the_actor_of_a_dead_raylet(
    cluster: Cluster, near: NearCluster, fleet: RemoteFleet
) -> None:
    await Talk(fleet).until_answered()
    fleet.close()
    actor = cluster.actor("a")
    assert actor is not None
    os.kill(cluster.raylet("a"), signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: is_gone(actor), what="the end of the actor")
    # somebody else brings it back
    await asyncio.to_thread(near.revive, "a")
    later = RemoteFleet(pool("a", "b"), near, near.config)
    try:
        await Talk(later, epoch=2).until_answered()
    finally:
        later.close()
    assert cluster.actor("a") not in {None, actor}


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_fleet_that_loses_its_relay_in_mid_call_goes_on_with_another(
    cluster: Cluster, near: NearCluster, fleet: RemoteFleet, fault: signal.Signals
) -> None:
    talk = Talk(fleet)
    await talk.until_answered()
    # the host has nothing more to say
    await talk.once()
    actor = cluster.actor("a")
    call = asyncio.create_task(talk.once(wait_s=60))
    await asyncio.sleep(0.2)
    assert not call.done()
    relay = near.sessions[0].process
    relay.send_signal(fault)
    said = await _silence_of(asyncio.wait_for(call, 60))
    assert ("has ended" if fault is signal.SIGKILL else "has not answered for") in said
    # which no host is to blame for
    with pytest.raises(CutOff):
        await fleet.loss("a")
    await talk.until_answered()
    assert await fleet.loss("a") is None
    assert len(near.sessions) == 2
    assert cluster.actor("a") == actor
    relay.send_signal(signal.SIGCONT)
    await asyncio.to_thread(wait_until, lambda: relay.poll() is not None, what="the end of the relay")


async def test_host_that_ssh_does_not_reach_goes_on_and_is_called_unreachable_when_it_is_lost(
    cluster: Cluster, near: NearCluster, fleet: RemoteFleet
) -> None:
    talk = Talk(fleet)
    await talk.until_answered()
    near.unreachable.add("a")
    for _ in range(3):
        await fleet.ensure("a")
        await talk.once()
    assert await fleet.loss("a") is None
    actor = cluster.actor("a")
    assert actor is not None
    os.kill(cluster.raylet("a"), signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: is_gone(actor), what="the end of the actor")

    async def is_unreachable() -> bool:
        with pytest.raises((HostSilent, TimeoutError)):
            await fleet.ensure("a")
            await asyncio.wait_for(talk.once(), 10)
        loss = await fleet.loss("a")
        return loss is not None and loss.kind is Kind.SSH_UNREACHABLE

    async with asyncio.timeout(60):
        while not await is_unreachable():
            await asyncio.sleep(0.2)
    near.unreachable.clear()
    await talk.until_answered()
    assert await fleet.loss("a") is None


async def test_actor_asked_for_where_no_raylet_is_any_more_is_asked_for_again_on_the_next(
    cluster: Cluster, near: NearCluster, fleet: RemoteFleet
) -> None:
    """A machine that restarts: Ray says at once that its actor is dead, and SSH answers only later."""
    talk = Talk(fleet)
    await talk.until_answered()
    actor = cluster.actor("a")
    assert actor is not None
    near.unreachable.add("a")
    os.kill(cluster.raylet("a"), signal.SIGTERM)
    await asyncio.to_thread(wait_until, lambda: is_gone(actor), what="the end of the actor")
    with pytest.raises((HostDown, HostSilent)):
        await asyncio.wait_for(talk.once(), 60)
    fleet.discard("a")
    looks = len(near.looks)
    finding = asyncio.create_task(fleet.ensure("a"))
    await asyncio.to_thread(wait_until, lambda: len(near.looks) >= looks + 2, what="a look while an actor is asked for")
    assert not finding.done()
    near.unreachable.clear()
    await asyncio.wait_for(finding, BACK_S)
    assert cluster.actor("a") not in {None, actor}


async def test_host_is_reallocated_by_the_pool_s_own_command_and_looked_at_anew(
    near: NearCluster, tmp_path: Path
) -> None:
    mark = tmp_path / 'it\'s "here"'
    able = RemoteFleet(pool("a", "b", reallocate=["touch", f"{mark} {{name}}"]), near, near.config)
    replacing = able.reallocate("b")
    assert replacing is not None
    assert await replacing == ""
    assert Path(f"{mark} b").exists()
    assert near.forgotten == ["b"]
    assert able.reallocate("a") is None, "Ray's head is there"
    failing = RemoteFleet(pool("a", "b", reallocate=["false"]), near, near.config).reallocate("b")
    assert failing is not None
    assert "`false` failed (exit 1)" in await failing
    assert RemoteFleet(pool("a"), near, near.config).reallocate("a") is None


async def test_bundle_that_cannot_be_placed_says_why(fleet: RemoteFleet) -> None:
    with pytest.raises(PoolError, match="a: no room for b1"):
        await fleet.place("a", Bundle(id="b1", code="", revision="", diff="", archive=b""))


class Driven:
    """A matrix of four blocks, driven on both hosts, with faults while it runs."""

    def __init__(self, root: Path, fleet: RemoteFleet, near: NearCluster) -> None:
        self.path = root / "ledger.db"
        self.said = io.StringIO()
        self._fleet = fleet
        self._near = near

    def runners(self) -> int:
        return rows(self.path, "SELECT count(*) FROM event WHERE event = 'runner_began'")[0][0]

    async def drive(self, fault: Callable[[], object]) -> None:
        """`fault` comes while the first visits run."""
        with Ledger.open(self.path) as ledger:
            ledger.enqueue(expand(MATRIX.replace("0.15", "1.5"), "driven.toml"), code_hash(), OnChange.REFUSE)
            progress = Progress(Console(file=self.said), time.monotonic)
            policy = pool("a", "b", no_host_s=300.0)
            hosts, here = self._near.hosts, code_hash()
            drive = Drive(ledger, hosts, self._fleet, progress, here, {"chaos"}, policy, bundles=lambda _: None)
            async with asyncio.timeout(BACK_S):
                driving = asyncio.create_task(drive.run())
                while not self.runners():
                    await asyncio.wait({driving}, timeout=0.1)
                    assert not driving.done(), self.said.getvalue()
                await asyncio.to_thread(fault)
                finish = await driving
                await drive.release()
        assert (finish.blocked, finish.paused) == ("", ""), self.said.getvalue()
        assert_complete(self.path, blocks=4)


@pytest.fixture
def driven(tmp_path: Path, fleet: RemoteFleet, near: NearCluster) -> Driven:
    return Driven(tmp_path, fleet, near)


async def test_drive_whose_relay_is_killed_repeats_nothing(driven: Driven, near: NearCluster) -> None:
    await driven.drive(lambda: near.sessions[0].process.kill())
    assert len(near.sessions) == 2
    assert "it has ended" in driven.said.getvalue()
    assert rows(driven.path, "SELECT DISTINCT state FROM visit") == [("finished",)]
    assert len(rows(driven.path, "SELECT id FROM visit")) == 4


async def test_drive_whose_raylet_is_killed_measures_its_block_again(driven: Driven, cluster: Cluster) -> None:
    def busy() -> str:
        return "a" if rows(driven.path, "SELECT id FROM visit WHERE host = 'a'") else "b"

    before = dict(cluster.raylets)
    await driven.drive(lambda: os.kill(cluster.raylet(busy()), signal.SIGKILL))
    assert cluster.raylets != before
    ended = {kind for (kind,) in rows(driven.path, "SELECT kind FROM visit WHERE kind IS NOT NULL")}
    # superseded: the other host had measured the block before this one was back to say what became of it
    assert ended, driven.said.getvalue()
    assert ended <= {"worker_lost", "raylet_lost", "host_lost", "superseded"}
