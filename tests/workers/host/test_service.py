"""The host's service with real files, real runners and real waiting; no Ray."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.code import code_hash
from core.events import Compiled, Entry, Probed, RunEnded, Rung, RunnerBegan, Samples, VisitBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.protocol import PROTOCOL, Answer, Care, Condition, Controller, Mode, Observation, Verb
from core.visit import Platform, Slot, Target, Visit
from orchestrator.link import Adopt, Ingest, Link
from tests.workers.host.holding import holding
from workers.bench.facts import installed
from workers.host import disk
from workers.host.config import HostConfig
from workers.host.holders import Places
from workers.host.marks import Marks, Whose
from workers.host.process import Identity, identify, is_alive
from workers.host.service import HostService
from workers.host.shared import NotShared

TPU = Target(platform=Platform.TPU, devices=4)
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


async def test_service_on_a_machine_with_one_lock_is_told_who_has_it_whatever_the_state_directory(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "machine.lock"
    first, second = (
        HostService(HostConfig(host="h", state=str(tmp_path / state), lock=str(lock), grace_s=0.5)) for state in "ab"
    )
    try:
        assert (await Client(first).sync(wait_s=0.0)).answer is Answer.OBEYED
        reply = await Client(second, "other").sync(wait_s=0.0)
        assert reply.held is not None
        assert (reply.answer, reply.held.user, reply.held.controller) == (Answer.HELD, "ann", "desk:7")
        await first.close()
        assert (await Client(second, "other").sync(wait_s=0.0)).answer is Answer.OBEYED
        assert lock.stat().st_mode & 0o777 == 0o666
    finally:
        await first.close()
        await second.close()


async def test_service_whose_lock_cannot_be_one_owns_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    lock = tmp_path / "machine.lock"
    os.mkfifo(lock)
    host = HostService(HostConfig(host="h", state=str(tmp_path / "state"), lock=str(lock), grace_s=0.5))
    try:
        for _ in range(2):
            with pytest.raises(NotShared, match="is no regular file: find out who put it there, and remove it"):
                await Client(host).sync(visit(5), wait_s=0.0)
        assert host.is_free
        lock.unlink()
        assert (await Client(host).until(VisitEnded, visit(5)))[-1] == VisitEnded(state="finished")
    finally:
        await host.close()


async def test_service_orphaned_stops_its_runner_and_frees_the_host(tmp_path: Path) -> None:
    host = service(tmp_path, orphan_s=5.0)
    try:
        client = Client(host)
        await client.until(Compiled, visit(5, HANGING))
        await until_gone(client.runner())
        reply = await client.sync(visit(5, HANGING))
        assert reply.answer in (Answer.OBEYED, Answer.OTHER_SPOOL)
        bodies = await client.until(VisitEnded, visit(5, HANGING))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.ORPHANED)
        assert [body.outcome for body in bodies if isinstance(body, RunEnded)] == ["stopped"]
    finally:
        await host.close()


async def test_service_that_cannot_look_around_shows_unclean_and_its_orphan_clock_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def failing(*_: object) -> Probed:
        nonlocal looked
        looked += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("workers.host.service.probe", failing)
    host = service(tmp_path, orphan_s=3.0)
    try:
        client = Client(host)
        async with asyncio.timeout(60):
            while (reply := await client.sync(wait_s=0.2)).probe is None:
                pass
            assert (looked, reply.probe.clean, reply.probe.kind) == (1, False, Kind.WORKER_LOST)
            assert "cannot be looked at ([Errno 24] Too many open files)" in reply.probe.reason
            other = Client(host, "another")
            assert (await other.sync(wait_s=0.0)).answer is Answer.HELD
            while (await other.sync(wait_s=0.0)).answer is Answer.HELD:
                await asyncio.sleep(0.1)
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
from core.events import PhaseBegan
async def main():
    client = t.Client(t.service(t.Path({state!r})))
    await client.until(PhaseBegan, t.visit(5, t.HANGING))
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
    await until_gone(runner)
    host = service(tmp_path)
    try:
        client = Client(host, epoch=2)
        bodies = await client.until(VisitEnded, visit(5, HANGING))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.WORKER_LOST)
        assert list((tmp_path / "scratch").iterdir()) == []
    finally:
        await host.close()


# A runner that is not tied to its actor, with a child in a session of its own that takes every descriptor with it.
ORPHANS = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True, close_fds=False)
with open(sys.argv[1] + ".new", "w") as file: print(os.getpid(), child.pid, file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
ACTOR_OF_ORPHANS = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import test_service as t
async def main():
    config = t.HostConfig(host="h", state={state!r}, grace_s=0.5)
    client = t.Client(t.HostService(config, (sys.executable, "-c", t.ORPHANS, {pids!r})))
    await client.until(t.VisitEnded, t.visit(5))
asyncio.run(main())
"""


async def test_service_killed_leaves_orphans_with_the_lock_that_the_next_one_ends(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = ACTOR_OF_ORPHANS.format(tests=str(Path(__file__).parent), state=str(tmp_path / "state"), pids=str(pids))
    with subprocess.Popen([sys.executable, "-c", code]) as actor:
        async with asyncio.timeout(60):
            while not pids.exists():
                await asyncio.sleep(0.05)
        orphans = [identity for pid in pids.read_text().split() if (identity := identify(int(pid)))]
        marks = Marks(tmp_path / "state" / "runners")
        assert [marks.whose(orphan.pid) for orphan in orphans] == [Whose.LIVE, Whose.LIVE]
        actor.kill()
    assert [marks.whose(orphan.pid) for orphan in orphans] == [Whose.STALE, Whose.STALE]
    host = service(tmp_path / "state")
    try:
        bodies = await Client(host, epoch=2).until(VisitEnded, visit(5))
        assert (bodies[-1].state, bodies[-1].kind) == ("failed", Kind.WORKER_LOST)
        assert not any(is_alive(orphan) for orphan in orphans)
    finally:
        await host.close()


# -- recovery and care


class Chips:
    """A TPU host whose groups are files. Its runners start them by a command that the test gives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.places = Places(root / "vfio", root / "no sysfs", str(root / "accel"), root / "lockfile")
        self.places.vfio.mkdir()
        self.group = self.places.vfio / "0"

    def service(self, start: str = "") -> HostService:
        config = HostConfig(host="h", state=str(self.state), target=TPU, grace_s=0.5, trial_s=60.0)
        return HostService(config, (sys.executable, "-c", start), self.places)


@pytest.fixture
def chips(tmp_path: Path) -> Chips:
    return Chips(tmp_path)


async def care(host: HostService, verb: Verb, **more: object) -> Condition:
    text = Care(verb=verb, user="bob", machine="laptop", **more).model_dump_json()
    return Condition.model_validate_json(await host.care(text))


def told(entries: list[Entry]) -> list[tuple[str, bool]]:
    """The rungs and probes of no visit, in order."""
    bodies = [entry.body for entry in entries if entry.visit is None]
    return [(body.step, body.good) if isinstance(body, Rung) else ("probed", body.clean) for body in bodies]


async def recovered(client: Client) -> Observation:
    """Calls in mode recover until the ladder is at its end."""
    reply = await client.sync(mode=Mode.RECOVER, wait_s=0.0)
    async with asyncio.timeout(30):
        while reply.recovering:
            reply = await client.sync(mode=Mode.RECOVER)
        while reply.entries:
            reply = await client.sync(mode=Mode.RECOVER, wait_s=0.0)
    return reply


async def test_service_in_mode_recover_frees_the_chip_and_tells_the_ledger_every_step(chips: Chips) -> None:
    host = chips.service()
    try:
        client = Client(host)
        with holding(chips.group, mark=Marks(chips.state / "runners").new()) as orphan:
            reply = await recovered(client)
            assert not is_alive(orphan)
        assert reply.probe is not None
        assert reply.probe.clean
        steps = told(client.entries)
        first = steps.index(("holders", False))
        assert steps[first:] == [
            ("holders", False),
            ("term", True),
            ("released", True),
            ("lockfile", True),
            ("trial", True),
            ("probed", True),
        ]
        assert set(steps[:first]) <= {("probed", False)}
    finally:
        await host.close()


async def test_service_believes_a_trial_that_failed_when_nobody_can_be_seen(chips: Chips) -> None:
    host = chips.service("import sys; sys.exit('open(/dev/vfio/0): Device or resource busy')")
    try:
        client = Client(host)
        reply = await recovered(client)
        assert reply.probe is not None
        assert (reply.probe.clean, reply.probe.kind) == (False, Kind.TPU_BUSY)
        assert told(client.entries)[-2:] == [("trial", False), ("probed", False)]
        seen = await care(host, Verb.CHECK)
        assert seen.probe is not None
        assert seen.probe.kind is Kind.TPU_BUSY
        bodies = await client.until(VisitEnded, visit(5))
        assert (bodies[-1].kind, [body for body in bodies if isinstance(body, RunnerBegan)]) == (Kind.TPU_BUSY, [])
    finally:
        await host.close()


async def test_service_sees_that_a_holder_it_could_see_has_gone(chips: Chips) -> None:
    host = chips.service()
    try:
        client = Client(host)
        with holding(chips.group):
            reply = await recovered(client)
            assert reply.probe is not None
            assert reply.probe.kind is Kind.TPU_BUSY
        seen = await care(host, Verb.CHECK)
        assert seen.probe is not None
        assert seen.probe.clean
        while (await client.sync(wait_s=0.0)).entries:
            pass
        assert told(client.entries)[-1] == ("probed", True)
    finally:
        await host.close()


async def test_service_whose_ladder_breaks_off_is_not_recovering_for_ever(chips: Chips) -> None:
    host = chips.service()
    try:
        client = Client(host)
        await client.sync(wait_s=0.0)
        (chips.state / "scratch").rmdir()
        reply = await recovered(client)
        assert reply.probe is not None
        assert (reply.probe.clean, reply.probe.kind) == (False, Kind.WORKER_LOST)
    finally:
        await host.close()


async def test_care_check_looks_and_says_what_the_host_is(chips: Chips) -> None:
    host = chips.service()
    try:
        with holding(chips.group) as stranger:
            seen = await care(host, Verb.CHECK)
            assert seen.probe is not None
            assert f"held by pid {stranger.pid}" in seen.probe.reason
            assert (seen.held, seen.alive, seen.refused, seen.rungs) == (None, (), "", ())
        assert seen.facts["code"] == code_hash()
        assert (seen.facts["platform"], seen.facts["devices"]) == ("tpu", "4")
        assert (seen.facts["ray"], seen.facts["jax"]) == (installed("ray"), installed("jax"))
        assert int(seen.facts["free_disk_bytes"]) > disk.MIN_FREE_BYTES
        seen = await care(host, Verb.CHECK)
        assert seen.probe is not None
        assert seen.probe.clean
    finally:
        await host.close()


async def test_care_says_what_runs_and_recovers_nothing_meanwhile(host: HostService) -> None:
    client = Client(host)
    await client.until(RunnerBegan, visit(5, HANGING))
    seen = await care(host, Verb.RECOVER)
    assert "visit 5 runs" in seen.refused
    assert seen.rungs == ()
    assert [alive.visit for alive in seen.alive] == [5]
    assert seen.held is not None
    assert seen.held.user == "ann"
    assert is_alive(client.runner())


async def test_care_recover_of_a_free_host_climbs_and_lets_it_go(chips: Chips) -> None:
    host = chips.service()
    try:
        with holding(chips.group, mark=Marks(chips.state / "runners").new()) as orphan:
            seen = await care(host, Verb.RECOVER)
            assert not is_alive(orphan)
        assert [rung.step for rung in seen.rungs] == ["holders", "term", "released", "lockfile", "trial"]
        assert seen.probe is not None
        assert (seen.probe.clean, seen.refused) == (True, "")
        assert (await Client(host).sync(wait_s=0.0)).answer is Answer.OBEYED
    finally:
        await host.close()


async def test_care_recover_of_an_owned_host_tells_the_owner(chips: Chips) -> None:
    host = chips.service()
    try:
        client = Client(host)
        await client.sync(wait_s=0.0)
        seen = await care(host, Verb.RECOVER)
        while (await client.sync(wait_s=0.0)).entries:
            pass
        assert [entry.body for entry in client.entries if isinstance(entry.body, Rung)] == list(seen.rungs)
        assert seen.held is not None
    finally:
        await host.close()


async def test_care_recover_beside_another_actor_is_refused(chips: Chips) -> None:
    first, second = chips.service(), chips.service()
    try:
        await Client(first).sync(wait_s=0.0)
        seen = await care(second, Verb.RECOVER)
        assert "ann (desk:7) has the host since" in seen.refused
        assert seen.rungs == ()
    finally:
        await first.close()
        await second.close()


async def test_care_drain_outlives_the_actor_and_release_ends_it(tmp_path: Path) -> None:
    host = service(tmp_path)
    client = Client(host)
    await client.until(RunnerBegan, visit(5, SelftestJob(sleep_s=0.5)))
    seen = await care(host, Verb.DRAIN, why="its disk is being changed")
    assert seen.draining.startswith("drained by bob on laptop since ")
    assert seen.draining.endswith(": its disk is being changed; `hillclimb pool release` puts it back")
    bodies = await client.until(VisitEnded, visit(5, SelftestJob(sleep_s=0.5)), visit(6))
    assert bodies[-1] == VisitEnded(state="finished")
    assert (await client.sync(visit(6), wait_s=0.0)).alive == ()
    await host.close()
    host = service(tmp_path)
    try:
        client = Client(host, "another", epoch=2)
        reply = await client.sync(visit(7), wait_s=0.5)
        assert (reply.draining, reply.alive, reply.releases) == (seen.draining, (), 0)
        assert (await care(host, Verb.RELEASE)).draining == ""
        assert not (tmp_path / "drained").exists()
        assert (await client.until(VisitEnded, visit(7)))[-1] == VisitEnded(state="finished")
        assert (await client.sync(wait_s=0.0)).releases == 1
        await host.close()
        host = service(tmp_path)
        assert (await Client(host, "another", epoch=3).sync(wait_s=0.0)).releases == 1
    finally:
        await host.close()


async def test_care_of_another_version_is_refused_in_words(host: HostService) -> None:
    text = json.dumps({"protocol": PROTOCOL + 1, "verb": "polish"})
    seen = Condition.model_validate_json(await host.care(text))
    assert seen.protocol == PROTOCOL
    assert f"protocol {PROTOCOL + 1} was spoken, this host speaks {PROTOCOL}" in seen.refused
