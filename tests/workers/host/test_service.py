"""The host's service with real files, real runners and real waiting; no Ray."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.events import Entry, RunEnded, RunnerBegan, Samples, VisitBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.protocol import PROTOCOL, Answer, Controller, Mode, Observation
from core.visit import Slot, Visit
from orchestrator.link import Adopt, Ingest, Link
from workers.host import disk
from workers.host.config import HostConfig
from workers.host.process import Identity, is_alive
from workers.host.service import HostService

ANN = Controller(user="ann", machine="desk", pid=7)
HANGING = SelftestJob(end="hang", phase="measure")


def visit(number: int, *jobs: SelftestJob) -> Visit:
    slots = tuple(Slot(slot=slot, job=job) for slot, job in enumerate(jobs or (SelftestJob(),)))
    return Visit(visit=number, slots=slots, iters=2, warmup=1)


class Client:
    """A controller that ingests into memory."""

    def __init__(self, service: HostService, ledger_id: str = "ledger", epoch: int = 1) -> None:
        self._service = service
        self.link = Link(ledger_id, ANN, epoch, None, 0, time.monotonic())
        self.entries: list[Entry] = []

    async def sync(self, *visits: Visit, mode: Mode = Mode.RUN, wait_s: float = 2.0) -> Observation:
        call = self.link.next_call(visits, mode, time.monotonic(), wait_s)
        reply = Observation.model_validate_json(await self._service.sync(call.model_dump_json()))
        match self.link.on_reply(reply, time.monotonic()):
            case Adopt(spool_id=spool_id):
                self.link.adopted(spool_id, 0)
                return await self.sync(*visits, mode=mode, wait_s=wait_s)
            case Ingest(entries=entries, fault=None):
                self.entries += entries
                self.link.committed(reply.spool_id, reply.last_seq if not entries else entries[-1].seq)
        return reply

    async def until(self, kind: type, *visits: Visit) -> list[object]:
        """Call until an event of this kind is there; returns all so far."""
        async with asyncio.timeout(30):
            while not any(isinstance(entry.body, kind) for entry in self.entries):
                await self.sync(*visits)
        return [entry.body for entry in self.entries]

    def runner(self) -> Identity:
        (began,) = [entry.body for entry in self.entries if isinstance(entry.body, RunnerBegan)]
        return Identity(began.pid, began.start_time)


def service(state: Path, orphan_s: float = 900.0) -> HostService:
    return HostService(HostConfig(host="h", state=str(state), orphan_s=orphan_s, grace_s=0.5))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HostService]:
    host = service(tmp_path)
    yield host
    await host.close()


async def until_gone(runner: Identity, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while is_alive(runner):
            await asyncio.sleep(0.01)


async def test_service_executes_a_visit_and_tells_it_in_order(host: HostService) -> None:
    client = Client(host)
    bodies = await client.until(VisitEnded, visit(5))
    assert isinstance(bodies[0], VisitBegan)
    assert bodies[-1] == VisitEnded(state="finished")
    assert [len(body.wall_ns) for body in bodies if isinstance(body, Samples)] == [2]
    assert [entry.seq for entry in client.entries] == list(range(1, len(bodies) + 1))
    assert {entry.visit for entry in client.entries} == {5}
    reply = await client.sync(visit(5), wait_s=0.0)
    assert reply.alive == ()
    assert reply.probe is not None
    assert reply.probe.clean


async def test_service_cancels_what_is_not_desired_and_starts_what_is(host: HostService) -> None:
    client = Client(host)
    await client.until(RunnerBegan, visit(5, HANGING))
    await client.until(VisitEnded)
    assert client.entries[-1].body.state == "cancelled"
    client.entries.clear()
    await client.until(VisitEnded, visit(6))
    assert client.entries[-1].body == VisitEnded(state="finished")


async def test_service_call_waits_wait_s_when_there_is_nothing_to_say(host: HostService) -> None:
    client = Client(host)
    await client.sync(wait_s=0.0)
    began = time.monotonic()
    reply = await client.sync(wait_s=0.3)
    assert reply.answer is Answer.OBEYED
    assert 0.3 <= time.monotonic() - began < 2.0


async def test_service_call_that_waits_is_answered_stale_by_a_newer_one(host: HostService) -> None:
    client = Client(host)
    await client.sync(wait_s=0.0)
    older = client.link.next_call((), Mode.RUN, time.monotonic(), wait_s=60.0)
    newer = client.link.next_call((), Mode.RUN, time.monotonic(), wait_s=0.0)
    waiting = asyncio.create_task(host.sync(older.model_dump_json()))
    await asyncio.sleep(0)
    await host.sync(newer.model_dump_json())
    async with asyncio.timeout(5):
        reply = Observation.model_validate_json(await waiting)
    assert (reply.answer, reply.order) == (Answer.STALE, older.order)


async def test_service_answers_a_call_of_another_version_with_its_own(host: HostService) -> None:
    text = json.dumps({"protocol": PROTOCOL + 1, "epoch": 4, "generation": 2, "something": "new"})
    reply = Observation.model_validate_json(await host.sync(text))
    assert (reply.answer, reply.protocol, reply.order) == (Answer.OTHER_PROTOCOL, PROTOCOL, (4, 2))


async def test_service_beside_another_on_the_same_host_is_told_held_until_it_is_gone(tmp_path: Path) -> None:
    first, second = service(tmp_path), service(tmp_path)
    try:
        await Client(first).sync(wait_s=0.0)
        client = Client(second, "other")
        reply = await client.sync(wait_s=0.0)
        assert reply.answer is Answer.HELD
        assert reply.held is not None
        assert reply.held.user == "ann"
        await first.close()
        assert (await client.sync(wait_s=0.0)).answer is Answer.OBEYED
    finally:
        await first.close()
        await second.close()


async def test_service_orphaned_stops_its_runner_and_frees_the_host(tmp_path: Path) -> None:
    host = service(tmp_path, orphan_s=1.0)
    try:
        client = Client(host)
        await client.until(RunnerBegan, visit(5, HANGING))
        await until_gone(client.runner(), within_s=1.0 + 0.5 + 2.0)
        reply = await client.sync(visit(5, HANGING))
        assert reply.answer in (Answer.OBEYED, Answer.OTHER_SPOOL)
        bodies = await client.until(VisitEnded, visit(5, HANGING))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.ORPHANED)
        assert [body.outcome for body in bodies if isinstance(body, RunEnded)] == ["stopped"]
    finally:
        await host.close()


async def test_service_closed_leaves_no_runner_and_its_visit_to_the_next(tmp_path: Path) -> None:
    host = service(tmp_path)
    client = Client(host)
    await client.until(RunnerBegan, visit(5, HANGING))
    runner = client.runner()
    await host.close()
    assert not is_alive(runner)
    host = service(tmp_path)
    try:
        bodies = await Client(host, epoch=2).until(VisitEnded, visit(5, HANGING))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.WORKER_LOST)
    finally:
        await host.close()


async def test_service_on_a_full_disk_fails_the_visit_drains_and_recovers(tmp_path: Path, monkeypatch) -> None:
    """A disk of 256 KiB, and three runs of some 150 KiB of samples."""
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 0)
    state = tmp_path / "small"
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", state], check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    host = service(state)
    try:
        client = Client(host)
        large = visit(5, *(SelftestJob(seed=seed) for seed in range(3))).model_copy(update={"iters": 20_000})
        bodies = await client.until(VisitEnded, large)
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.DISK)
        assert [entry.seq for entry in client.entries] == list(range(1, len(bodies) + 1))
        spool_id = client.link.spool_id
        assert "No space left" in (await client.sync(visit(6), wait_s=0.0)).draining
        subprocess.run(["mount", "-o", "remount,size=4m", state], check=True)
        client.entries.clear()
        await client.sync(mode=Mode.RECOVER)
        assert (await client.until(VisitEnded, visit(6)))[-1] == VisitEnded(state="finished")
        assert client.link.spool_id == spool_id
    finally:
        await host.close()
        subprocess.run(["umount", "--lazy", state], check=True)


ACTOR = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import test_service as t
async def main():
    client = t.Client(t.service(t.Path({state!r})))
    await client.until(t.RunnerBegan, t.visit(5, t.HANGING))
    print(*client.runner(), flush=True)
    await client.until(t.VisitEnded, t.visit(5, t.HANGING))
asyncio.run(main())
"""


async def test_service_killed_is_followed_by_one_that_ends_its_visit(tmp_path: Path) -> None:
    code = ACTOR.format(tests=str(Path(__file__).parent), state=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as actor:
        assert actor.stdout is not None
        pid, start_time = actor.stdout.readline().split()
        actor.kill()
    runner = Identity(int(pid), int(start_time))
    await until_gone(runner, within_s=1.0)
    host = service(tmp_path)
    try:
        client = Client(host, epoch=2)
        bodies = await client.until(VisitEnded, visit(5, HANGING))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.WORKER_LOST)
        assert list((tmp_path / "scratch").iterdir()) == []
    finally:
        await host.close()
