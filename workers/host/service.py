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

from pydantic import BaseModel

from core.code import code_hash
from core.events import Probed
from core.protocol import PROTOCOL, Answer, Call, Observation
from core.visit import Visit
from workers.host.config import HostConfig
from workers.host.lock import HostLock
from workers.host.probe import probe
from workers.host.recovery import open_spool
from workers.host.spool import Spool
from workers.supervisor import RUNNER, Supervisor, Workplace
from workers.sync import SyncHost

# News wait this long for more of it: a runner says dozens of things within milliseconds, and a call for each would take
# the processor from what is being measured. The end of a visit does not wait.
GATHER_S = 0.05
# How often the clocks are looked at.
TICK_S = 1.0
# How often an idle host is looked at. A running visit is left in peace: its spool tries the disk with every event.
PROBE_EVERY_S = 10.0


class _Spoken(BaseModel):
    """As much of a call of any version as it takes to answer it."""

    protocol: int
    epoch: int
    generation: int


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

    def __init__(self, config: HostConfig, runner: tuple[str, ...] = RUNNER) -> None:
        self._config = config
        self._runner = runner
        self._state = Path(config.state).expanduser()
        for name in ("scratch", "cache"):
            (self._state / name).mkdir(parents=True, exist_ok=True)
        self._lock = HostLock(self._state / "lock")
        self._core = SyncHost(config.host, config.orphan_s, self._lock, self)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._tasks: set[asyncio.Task[object]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._sitting = uuid.uuid4().hex
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

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
        self._ticker = self._ticker or asyncio.create_task(self._tick())
        return (await self._answer(Call.model_validate_json(text))).model_dump_json()

    async def close(self) -> None:
        """End the visit at once and let the host go."""
        tasks = [*self._tasks, *([self._ticker] if self._ticker else [])]
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

    async def _tick(self) -> None:
        looked = float("-inf")
        while True:
            self._core.tick(time.monotonic())
            if self._core.is_idle and time.monotonic() - looked >= PROBE_EVERY_S:
                looked = time.monotonic()
                await self._look()
            await asyncio.sleep(min(TICK_S, self._config.orphan_s / 4))

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _look(self) -> Probed:
        seen = await asyncio.to_thread(probe, self._config.target, self._state)
        self._core.probed(seen)
        return seen

    def _keep(self, work: Coroutine[None, None, object]) -> None:
        """Run `work` beside the calls; the loop alone would forget it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- workers.sync.Surroundings ------------------------------------------------------------------------------------

    def wall_clock(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds")

    def open_spool(self, ledger_id: str) -> Spool:
        for left in (self._state / "scratch").iterdir():
            shutil.rmtree(left)
        return open_spool(self._state / ledger_id, time.time_ns)

    def on_disk(self, change: Callable[[], None]) -> None:
        self._thread.submit(change)

    def look(self) -> None:
        self._keep(self._look())

    def execute(self, visit: Visit, spool: Spool, order: tuple[int, int]) -> Supervisor:
        journal = SpoolJournal(visit.visit, order, self._sitting, spool, self._thread, self._wake)
        workplace = Workplace(
            scratch=self._state / "scratch",
            cache=self._state / "cache",
            lock_descriptor=self._lock.descriptor,
            grace_s=self._config.grace_s,
            probe=self._look,
            code=partial(asyncio.to_thread, code_hash),
            command=self._runner,
        )
        supervisor = Supervisor(visit, journal, workplace)
        self._keep(self._execute(supervisor))
        return supervisor

    async def _execute(self, supervisor: Supervisor) -> None:
        await supervisor.run()
        self._core.ended()
        self._wake()
