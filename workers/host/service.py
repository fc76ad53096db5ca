"""The host's service: `SyncHost` with real files, real processes and real waiting. What the Ray actor serves.

The event loop only decides and answers. One thread makes all changes of the spool, in the order they were asked for;
other threads walk /proc and hash the code. A call waits here until the host has something to say, a newer call came, or
its `wait_s` are over.
"""

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from core.events import Probed, Rung
from core.failures import Kind
from core.protocol import PROTOCOL, Answer, Call, Care, Condition, Controller, HostHeld, Observation, Verb
from core.visit import Platform, Visit
from workers.host import preemption
from workers.host.code import RUNNER, Codes
from workers.host.config import HostConfig
from workers.host.duty import DutyFiles
from workers.host.facts import host_facts
from workers.host.holders import HERE, Places
from workers.host.ladder import Ladder
from workers.host.lock import HostLock
from workers.host.marks import Marks
from workers.host.probe import probe
from workers.host.recovery import open_spool
from workers.host.spool import Spool
from workers.host.trial import Trial
from workers.supervisor import Supervisor, Workplace
from workers.sync import SyncHost

# News wait this long for more of it: a runner says dozens of things within milliseconds, and a call for each would take
# the processor from what is being measured. The end of a visit does not wait.
GATHER_S = 0.05
# How often the clocks are looked at.
TICK_S = 1.0
# How often an idle host is looked at. A running visit is left in peace: its spool tries the disk with every event.
PROBE_EVERY_S = 10.0
# A trial start finds what a probe cannot see: chips that hang, a holder in another container. It is believed for this
# long; then a visit, and the next ladder if need be, may find out whether it still holds.
BELIEVED_S = 60.0


Result = TypeVar("Result")


class _Spoken(BaseModel):
    """As much of a call of any version as it takes to answer it."""

    protocol: int
    epoch: int = 0
    generation: int = 0


class SpoolJournal:
    """Where a visit's events go: its spool, by the spool's thread (`workers.supervisor.Journal`)."""

    def __init__(
        self,
        visit: int,
        order: tuple[int, int],
        sitting: str,
        spool: Spool,
        thread: ThreadPoolExecutor,
        written: Callable[[], None],
    ) -> None:
        self._visit = visit
        self._order = order
        self._sitting = sitting
        self._spool = spool
        self._thread = thread
        self._written = written

    @property
    def broken(self) -> str:
        return self._spool.broken

    async def begin(self) -> None:
        await self._do(partial(self._spool.begin, self._visit, self._order, self._sitting))

    async def write(self, *bodies: object) -> None:
        await self._do(partial(self._spool.append, self._visit, bodies))

    async def _do(self, change: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, change)
        self._written()


class HostService:
    """Serves `sync` on one host. Made anywhere, used on one event loop."""

    def __init__(self, config: HostConfig, runner: tuple[str, ...] = RUNNER, places: Places = HERE) -> None:
        self._config = config
        self._runner = runner
        self._places = places
        self._state = Path(config.state).expanduser()
        for name in ("scratch", "cache"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        bundles = Path(config.bundles).expanduser() if config.bundles else None
        self._codes = Codes(self._state / "cache", bundles, runner, python=config.python)
        self._marks = Marks(self._state / "runners")
        lock = Path(config.lock or self._state / "lock")
        self._lock = HostLock(lock, self._marks, config.grace_s)
        self._core = SyncHost(config.host, config.orphan_s, self._lock, self)
        self._duty_files = DutyFiles(self._state)
        self._core.set_duty(self._duty_files.read())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._tasks: set[asyncio.Task[object]] = set()
        self._began = False
        self._sitting = uuid.uuid4().hex
        self._turn = asyncio.Lock()
        self._reading_duty = asyncio.Lock()
        self._changed = asyncio.Event()
        self._recovery: asyncio.Task[tuple[Rung, ...]] | None = None
        self._believed: tuple[Probed, float] | None = None

    async def sync(self, text: str) -> str:
        """One call, as JSON of `core.protocol.Call`; returns JSON of an `Observation`. Raises ValueError."""
        spoken = _Spoken.model_validate_json(text)
        if spoken.protocol != PROTOCOL:
            return Observation(
                host=self._config.host,
                epoch=spoken.epoch,
                generation=spoken.generation,
                answer=Answer.OTHER_PROTOCOL,
            ).model_dump_json()
        self._begin()
        return (await self._answer(Call.model_validate_json(text))).model_dump_json()

    async def care(self, text: str) -> str:
        """A person's call, as JSON of `core.protocol.Care`; returns JSON of a `Condition`. Raises ValueError."""
        spoken = _Spoken.model_validate_json(text)
        if spoken.protocol != PROTOCOL:
            wrong = f"protocol {spoken.protocol} was spoken, this host speaks {PROTOCOL}"
            return Condition(
                host=self._config.host, refused=f"{wrong}: use the hillclimb that started it, or start its pool again"
            ).model_dump_json()
        self._begin()
        return (await self._care_for(Care.model_validate_json(text))).model_dump_json()

    @property
    def is_free(self) -> bool:
        """No ledger owns the host, and nothing runs there."""
        return self._core.is_idle and not self._core.is_owned

    async def close(self) -> None:
        """End the visit at once and let the host go."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._lock.release()

    async def _answer(self, call: Call) -> Observation:
        async with self._turn:
            claim = partial(self._core.claim, call, time.monotonic())
            reply = await asyncio.get_running_loop().run_in_executor(self._thread, claim)
            if reply is None:
                reply = self._core.obey(call, time.monotonic())
        # An older call that still waits is answered now.
        self._wake()
        deadline = time.monotonic() + call.wait_s
        while reply is None:
            reply = self._core.poll(call)
            left = deadline - time.monotonic()
            if reply is None and left <= 0:
                reply = self._core.heartbeat(call)
            if reply is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), left)
        if reply.alive:
            await asyncio.sleep(GATHER_S)
            reply = self._core.heartbeat(call)
        return reply

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self._began:
            self._began = True
            self._keep(self._tick())
            self._keep(self._look_around())
            if self._config.preemption == "gce":
                self._keep(self._watch_preemption())

    async def _tick(self) -> None:
        """The orphan clock, which no disk and no /proc may hold up."""
        while True:
            self._core.tick(time.monotonic())
            await asyncio.sleep(min(TICK_S, self._config.orphan_s / 4))

    async def _look_around(self) -> None:
        looked = float("-inf")
        while True:
            try:
                if self._core.is_idle and time.monotonic() - looked >= PROBE_EVERY_S:
                    looked = time.monotonic()
                    await self._look_while_idle()
                await self._read_duty()
            except OSError as error:
                reason = f"the host cannot be looked at ({error}): check its disk and its limits"
                self._core.probed(Probed(clean=False, kind=Kind.WORKER_LOST, reason=reason))
            await asyncio.sleep(TICK_S)

    async def _watch_preemption(self) -> None:
        await preemption.until_preempted()
        self._core.preempted("its provider takes the machine away: its blocks are measured elsewhere")
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _probe(self) -> Probed:
        seen = await asyncio.to_thread(probe, self._config.target, self._state, self._places, self._marks)
        if seen.clean and self._believed is not None:
            found, until = self._believed
            if time.monotonic() < until:
                return found.model_copy(update={"free_disk_bytes": seen.free_disk_bytes})
        return seen

    async def _look(self) -> Probed:
        seen = await self._probe()
        self._core.probed(seen)
        return seen

    async def _look_while_idle(self) -> None:
        """What was seen while a runner started may be the runner."""
        seen = await self._probe()
        if self._core.is_idle:
            self._core.probed(seen)

    def _keep(self, work: Coroutine[None, None, Result]) -> asyncio.Task[Result]:
        """Run `work` beside the calls; the loop alone would forget it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- workers.sync.Surroundings ------------------------------------------------------------------------------------

    def wall_clock(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds")

    def open_spool(self, ledger_id: str) -> Spool:
        for left in (self._state / "scratch").iterdir():
            shutil.rmtree(left)
        return open_spool(self._state / ledger_id, time.time_ns)

    def on_disk(self, change: Callable[[], None]) -> None:
        self._thread.submit(change).add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._wake))

    def recover(self) -> None:
        self._recovery = self._keep(self._recover())

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> Supervisor:
        journal = SpoolJournal(visit.visit, order, self._sitting, spool, self._thread, self._wake)
        workplace = Workplace(
            scratch=self._state / "scratch",
            lock_descriptor=self._lock.descriptor,
            marks=self._marks,
            grace_s=self._config.grace_s,
            probe=self._look,
            codes=self._codes,
        )
        supervisor = Supervisor(visit, journal, workplace)
        self._keep(self._execute(supervisor))
        return supervisor

    async def _execute(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.run()
        finally:
            self._core.ended()
            self._wake()

    # -- recovery -----------------------------------------------------------------------------------------------------

    async def _recover(self) -> tuple[Rung, ...]:
        """Climb the ladder, to an end whatever comes. Returns its rungs."""
        rungs: list[Rung] = []

        def say(rung: Rung) -> None:
            rungs.append(rung)
            self._loop.call_soon_threadsafe(self._core.climbed, rung)

        seen = Probed(clean=False, kind=Kind.WORKER_LOST, reason="the ladder broke off: the actor's log says why")
        try:
            seen, unseen = await asyncio.to_thread(self._climb, say)
            self._believed = (seen, time.monotonic() + BELIEVED_S) if unseen else None
        finally:
            self._core.recovered(seen)
            self._wake()
        return tuple(rungs)

    def _climb(self, say: Callable[[Rung], None]) -> tuple[Probed, bool]:
        """What is left in the way, and whether it is nothing that a probe could see.

        On a host without TPU chips, or with no room to work in, there is nothing to climb: a look is all.
        """
        config = self._config
        look = partial(probe, config.target, self._state, self._places, self._marks)
        seen = look()
        if config.target.platform is not Platform.TPU or seen.kind is Kind.DISK:
            return seen, False
        trial = Trial(
            target=config.target,
            scratch=self._state / "scratch",
            marks=self._marks,
            command=self._runner,
            lock_descriptor=self._lock.descriptor,
            grace_s=config.grace_s,
            deadline_s=config.trial_s,
        )
        ladder = Ladder(self._places, self._marks, config.grace_s, config.kill_foreign, trial)
        trouble = ladder.climb(say)
        seen = look()
        if trouble is None:
            return seen, False
        found = seen.model_copy(update={"clean": False} | trouble._asdict())
        return found, seen.clean

    async def _read_duty(self) -> None:
        """A person may speak to another actor of this host: on an embedded pool they do."""
        async with self._reading_duty:
            duty = await asyncio.to_thread(self._duty_files.read)
            if duty == self._core.duty:
                return
            self._core.set_duty(duty)
        self._wake()

    # -- what a person asks for ---------------------------------------------------------------------------------------

    async def _care_for(self, care: Care) -> Condition:
        refused, rungs = "", tuple[Rung, ...]()
        match care.verb:
            case Verb.CHECK:
                pass
            case Verb.RECOVER:
                refused, rungs = await self._recover_for(care)
            case Verb.DRAIN:
                refused = await self._set_duty(partial(self._duty_files.drain, care))
            case Verb.RELEASE:
                refused = await self._set_duty(self._duty_files.release)
        if self._core.is_idle and not rungs:
            await self._look_while_idle()
        facts = await asyncio.to_thread(host_facts, self._config.target, self._state)
        seen = self._core.condition
        held = seen.held or await asyncio.to_thread(self._lock.other)
        return seen.model_copy(update={"held": held, "rungs": rungs, "refused": refused, "facts": facts})

    async def _recover_for(self, care: Care) -> tuple[str, tuple[Rung, ...]]:
        """Climb for a person, with the host's lock. Returns why not, and the rungs."""
        async with self._turn:
            borrowed = not self._core.is_owned
            if borrowed and (held := await self._borrow_lock(care)):
                return f"{held.user} ({held.controller}) has the host since {held.since}: ask them to release it", ()
            refused = self._core.climb()
        try:
            return (refused, ()) if refused or self._recovery is None else ("", await self._recovery)
        finally:
            if borrowed:
                self._lock.release()

    async def _borrow_lock(self, care: Care) -> HostHeld | None:
        person = Controller(user=care.user, machine=care.machine, pid=0)
        take = partial(self._lock.acquire, person, self.wall_clock())
        return await asyncio.get_running_loop().run_in_executor(self._thread, take)

    async def _set_duty(self, write: Callable[[], None]) -> str:
        """Durable before it is true. Returns why it could not be made so."""
        try:
            await asyncio.to_thread(write)
            await self._read_duty()
        except OSError as error:
            return f"{self._state} cannot be written to ({error.strerror}): free some space there"
        return ""
