"""The supervisor: owns one visit, from its durable beginning to its last word.

Invariants. Nothing starts before the visit's id is on disk, nor after a probe that was not clean. At most one runner of
the visit lives. Every runner that began is said to have exited, with its `waitpid` status; every visit that began is
said to have ended, once. A slot's run ends once: by the runner, or here when the runner could not.

A runner that dies takes the slot it was at with it, not the visit: a fresh one takes the slots that remain. The second
death ends the visit. A runner that dies before it reaches any slot is tried once: when one with other process settings
reaches its slots, the settings are to blame and the slots that chose them have failed; when none does, the visit has,
and where the host is not to blame its slots have, too: one retry decides about them. A revision that says itself that
it cannot run its slots has failed them, whatever others do.
A runner that survives SIGKILL is in the kernel's hands: it is waited for no longer, and probes show it from then on.

It knows neither Ray nor the ledger. It runs on the actor's event loop, which forks (see `workers.host.child`); whatever
waits for a disk or walks /proc happens in threads.
"""

import asyncio
import os
import shutil
import signal
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

from core.events import HostFault, Probed, RunEnded, RunnerBegan, RunnerExited, VisitEnded
from core.failures import Blame, Kind, blame
from core.protocol import Alive
from core.visit import Phase, Slot, Visit, written_for_runner
from workers.bench.settings import process_settings
from workers.host.child import Child
from workers.host.code import CodeMissing, Codes, Installed
from workers.host.inherit import inherited_environment
from workers.host.marks import Marks
from workers.host.memory import OomWatch
from workers.host.process import GONE_S
from workers.host.progress import Progress
from workers.host.verdict import Ending, Evidence, describe, from_outside, of_settings, verdict
from workers.host.wire import Lines, NoEvent
from workers.runner import FRESH_PROCESS_EXIT

# faulthandler writes the stacks of some dozen threads in milliseconds; a process whose handler is not armed yet dies of
# the request at once.
STACKS_S = 2.0
# What a runner wrote before its deadline is read before it is judged, also by an actor that was stopped meanwhile.
LAST_LOOK_S = 0.2
# An actor that is being ended loses its runner a moment before it goes itself: Ray kills a worker's children first
# (measured: the actor lived long enough to blame the run), and a host that shuts down sends TERM to everyone. So a
# runner that was killed is judged only by an actor that is still there after this. The next actor knows better.
SURVIVE_S = 1.0
# A host or a program that killed two runners would kill the third.
LAST_DEATH = 2


class Stop(Enum):
    """Why a visit is ended from outside."""

    CANCELLED = "the controller no longer wants the visit"
    ORPHANED = "no controller has called for longer than the orphan clock"


def end_from_outside(broken: str, stop: Stop | None) -> VisitEnded | None:
    """How a visit ends whose disk is `broken` or that is to stop; None when neither is the case."""
    if broken:
        return VisitEnded(state="failed", kind=Kind.DISK, reason=broken)
    match stop:
        case None:
            return None
        case Stop.CANCELLED:
            return VisitEnded(state="cancelled", kind=Kind.CANCELLED, reason=stop.value)
        case Stop.ORPHANED:
            return VisitEnded(state="failed", kind=Kind.ORPHANED, reason=stop.value)


class Journal(Protocol):
    """Where a visit's events go. Durable when awaited, unless `broken` says why not."""

    @property
    def broken(self) -> str: ...

    async def begin(self) -> None: ...

    async def write(self, *bodies: object) -> None: ...


@dataclass(frozen=True)
class Workplace:
    """What a host gives its runners."""

    scratch: Path
    lock_descriptor: int
    marks: Marks
    grace_s: float
    probe: Callable[[], Awaitable[Probed]]
    codes: Codes


def processes(slots: Sequence[Slot]) -> list[list[Slot]]:
    """The slots by equal `env` and `code`, each kept in order, the groups in order of first appearance."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[Slot]] = {}
    for slot in slots:
        groups.setdefault((slot.job.code, tuple(sorted(slot.job.env.items()))), []).append(slot)
    return list(groups.values())


@dataclass(frozen=True)
class _Death:
    """A runner that did not do what it was for."""

    kind: Kind
    reason: str
    phase: Phase
    exit_status: str
    stderr_tail: str

    def strikes(self, slots: list[Slot]) -> list[Slot]:
        """Those of a process that came to none of its `slots` which pay for its end: all, whose settings let it come to
        none. A signal from outside says nothing of settings and costs one: without any, a process that is always
        killed as it starts would be tried for ever."""
        return slots[:1] if self.kind is Kind.KILLED else slots

    def ends_visit(self) -> VisitEnded:
        return VisitEnded(state="failed", kind=self.kind, reason=self.reason)

    def ends_run(self, slot: int) -> RunEnded:
        """The end of a run that it took with it."""
        return self._ended(slot, self.kind, self.reason)

    def ends_before(self, slot: Slot) -> RunEnded:
        """The end of a run that no runner came to, where runners with other process settings came to theirs."""
        if self.kind is Kind.KILLED:
            return self.ends_run(slot.slot)
        chosen = [f"{name}={value}" for name, value in slot.job.env.items()]
        chosen += [f"code={slot.job.code[:12]}"] if slot.job.code else []
        settings = f"with {' '.join(chosen) or 'no process settings'}, and not with those of other slots"
        return self._ended(slot.slot, of_settings(self.kind), f"{self.reason} {settings}")

    def _ended(self, slot: int, kind: Kind, reason: str) -> RunEnded:
        return RunEnded(
            slot=slot,
            outcome="failed",
            kind=kind,
            phase=self.phase,
            reason=reason[:4096],
            exit_status=self.exit_status,
            stderr_tail=self.stderr_tail,
        )


class Supervisor:
    """One visit. `run` executes it to its end; `stop` asks it to end before."""

    def __init__(
        self, visit: Visit, journal: Journal, workplace: Workplace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._visit = visit
        self._journal = journal
        self._workplace = workplace
        self._clock = clock
        self._stop: Stop | None = None
        self._bad_output: NoEvent | None = None
        self._attention = asyncio.Event()
        self._progress = Progress(since=clock())
        self._ended: set[int] = set()

    @property
    def visit(self) -> int:
        return self._visit.visit

    def stop(self, why: Stop) -> None:
        """End the visit. The first reason stands."""
        self._stop = self._stop or why
        self._attention.set()

    def alive(self) -> Alive:
        progress = self._progress
        return Alive(
            visit=self.visit,
            slot=progress.slot,
            phase=progress.phase,
            ended_slots=len(self._ended),
            phase_s=round(self._clock() - progress.since, 3),
        )

    async def run(self) -> None:
        """Execute the visit; every way out writes its end. Raises nothing."""
        try:
            await self._journal.begin()
            end = await self._execute()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave a visit without an end
            fault = HostFault(fault="supervisor failed", detail=traceback.format_exc()[-4096:])
            await self._journal.write(fault)
            end = VisitEnded(state="failed", kind=Kind.WORKER_LOST, reason=f"the supervisor failed: {error!r}"[:4096])
        await self._journal.write(end)

    # -- the visit ----------------------------------------------------------------------------------------------------

    async def _execute(self) -> VisitEnded:
        try:
            codes = await asyncio.to_thread(self._workplace.codes.of, self._visit)
        except CodeMissing as missing:
            return VisitEnded(state="failed", kind=Kind.ENVIRONMENT_MISMATCH, reason=str(missing))
        process = deaths = 0
        reached = False
        stillborn: list[tuple[list[Slot], _Death]] = []
        for group in processes(self._visit.slots):
            installed = codes[group[0].job.code]
            visit = self._visit.model_copy(update={"code": installed.code})
            remaining = group
            group_reached = False
            while remaining:
                probe = await self._look()
                if end := self._end_from_outside():
                    return end
                if probe.kind is not None:
                    return VisitEnded(state="failed", kind=probe.kind, reason=probe.reason)
                if end := await self._missing(installed):
                    return end
                process += 1
                wanted = visit.model_copy(update={"slots": tuple(remaining)})
                death = await self._run_process(wanted, installed, process)
                group_reached |= self._progress.has_reached_a_slot
                reached |= group_reached
                if death is not None:
                    # without its code it died of that, whatever it said
                    if end := self._end_from_outside() or await self._missing(installed):
                        return end
                    if death.kind is Kind.USER_ERROR:
                        await self._journal.write(*(death.ends_run(slot.slot) for slot in remaining))
                        break
                    if not group_reached:
                        stillborn.append((death.strikes(remaining), death))
                        break
                    deaths += 1
                    if deaths == LAST_DEATH:
                        return death.ends_visit()
                remaining = [slot for slot in remaining if slot.slot not in self._ended]
        if reached or not stillborn:
            for slots, death in stillborn:
                await self._journal.write(*(death.ends_before(slot) for slot in slots))
            return VisitEnded(state="finished")
        for _, death in stillborn:
            if blame(death.kind) is Blame.HOST:
                return death.ends_visit()
        # A flag that XLA does not know, equal for all arms: without a strike against them they would be tried for ever.
        for slots, death in stillborn:
            await self._journal.write(*(death.ends_run(slot.slot) for slot in slots))
        return stillborn[0][1].ends_visit()

    def _end_from_outside(self) -> VisitEnded | None:
        return end_from_outside(self._journal.broken, self._stop)

    @staticmethod
    async def _missing(installed: Installed) -> VisitEnded | None:
        missing = await asyncio.to_thread(lambda: installed.missing)
        return VisitEnded(state="failed", kind=Kind.ENVIRONMENT_MISMATCH, reason=missing) if missing else None

    async def _look(self) -> Probed:
        seen = await self._workplace.probe()
        await self._journal.write(seen)
        return seen

    # -- one process --------------------------------------------------------------------------------------------------

    async def _run_process(self, visit: Visit, installed: Installed, process: int) -> _Death | None:
        scratch = Path(await asyncio.to_thread(mkdtemp, prefix=f"visit-{visit.visit}-", dir=self._workplace.scratch))
        try:
            file = scratch / "visit.json"
            await asyncio.to_thread(file.write_text, written_for_runner(visit))
            with await asyncio.to_thread(OomWatch) as watch:
                return await self._watch_process(visit, installed, process, file, watch)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _watch_process(
        self, visit: Visit, installed: Installed, process: int, file: Path, watch: OomWatch
    ) -> _Death | None:
        slots = tuple(slot.slot for slot in visit.slots)
        self._progress = Progress(since=self._clock(), pending=set(slots))
        self._bad_output = None
        cache = str(installed.cache)
        options = (str(file), "--cache", cache, "--process", str(process), "--die-with-parent", str(os.getpid()))
        child = await Child.spawn(
            (*installed.command, *options),
            env=process_settings(visit, inherited_environment(os.environ, installed.bundle)),
            cwd=file.parent,
            inherit=(self._workplace.lock_descriptor,),
            marks=self._workplace.marks,
        )
        pid, start_time = child.identity
        began = RunnerBegan(process=process, pid=pid, start_time=start_time, slots=slots)
        reading = asyncio.create_task(self._read(child, began))
        try:
            ended = await self._wait(child)
        finally:
            child.signal_group(signal.SIGKILL)
            await self._until_exit(child, GONE_S)
            await child.drain(reading)
        oom = ""
        if ended is None and from_outside(child.returncode):
            await asyncio.sleep(SURVIVE_S)
            oom = await asyncio.to_thread(watch.evidence, pid)
        return await self._close(child, process, ended, oom, visit.slots)

    async def _read(self, child: Child, began: RunnerBegan) -> None:
        """Write down what the runner says until it says no more or something that is no event."""
        await self._journal.write(began)
        lines = Lines()
        while (data := await child.events.read(1 << 18)) and self._bad_output is None:
            events, self._bad_output = lines.feed(data)
            good = []
            for event in events:
                if wrong := self._progress.take(event, self._clock()):
                    self._bad_output = wrong
                    break
                if isinstance(event, RunEnded):
                    self._ended.add(event.slot)
                good.append(event)
            await self._journal.write(*good)
            self._attention.set()

    def _due(self) -> float:
        """When the runner counts as stalled. One that has nothing left to run has the time a start takes to go."""
        phase = self._progress.phase if self._progress.pending else Phase.START
        return self._progress.since + self._visit.deadlines.of(phase)

    def _ending(self) -> Ending | None:
        if self._journal.broken:
            return Ending.DISK
        match self._stop:
            case Stop.CANCELLED:
                return Ending.CANCELLED
            case Stop.ORPHANED:
                return Ending.ORPHANED
            case None if self._bad_output:
                return Ending.BAD_OUTPUT
            case None:
                return Ending.STALL if self._clock() > self._due() else None

    async def _wait(self, child: Child) -> Ending | None:
        """Wait until the runner exits, or end it. Returns why we ended it."""
        while not child.exited.done():
            ending = self._ending()
            if ending is Ending.STALL:
                await self._until_exit(child, LAST_LOOK_S)
                ending = self._ending()
            if ending is not None and not child.exited.done():
                await self._end(child, ending)
                return ending
            self._attention.clear()
            attention = asyncio.create_task(self._attention.wait())
            either: list[asyncio.Future[Any]] = [child.exited, attention]
            await asyncio.wait(either, timeout=self._due() - self._clock(), return_when=asyncio.FIRST_COMPLETED)
            attention.cancel()
        return None

    async def _end(self, child: Child, ending: Ending) -> None:
        """Stacks from a stalled runner, TERM, grace; KILL is next: a killed libtpu leaves its chips without a reset."""
        if ending is Ending.STALL:
            child.signal_leader(signal.SIGUSR1)
            await self._until_exit(child, STACKS_S)
        child.signal_group(signal.SIGTERM)
        await self._until_exit(child, self._workplace.grace_s)

    @staticmethod
    async def _until_exit(child: Child, at_most_s: float) -> None:
        await asyncio.wait([child.exited], timeout=at_most_s)

    # -- what its exit means ------------------------------------------------------------------------------------------

    async def _close(
        self, child: Child, process: int, ended: Ending | None, oom: str, asked: tuple[Slot, ...]
    ) -> _Death | None:
        """Say that the runner exited, and end the run it was at. Returns its death, if it was one."""
        exit_status, output = describe(child.returncode), child.output.text()
        await self._journal.write(RunnerExited(process=process, exit_status=exit_status, stderr_tail=output))
        unkillable = ""
        if child.returncode is None:
            unkillable = await asyncio.to_thread(child.give_up)
            await self._journal.write(HostFault(fault="runner survives SIGKILL", detail=unkillable))
        # a runner that broke off on its own after it said something that is no event
        ended = ended or (Ending.BAD_OUTPUT if self._bad_output else None)
        progress = self._progress
        made_room = ended is None and child.returncode == FRESH_PROCESS_EXIT and len(progress.pending) < len(asked)
        if made_room or not progress.pending:
            return None
        nobody_blamed = not progress.has_reached_a_slot and ended in (None, Ending.STALL)
        seen = await self._look() if nobody_blamed else None
        commit = asked[0].job.code
        found = verdict(Evidence(child.returncode, progress.phase, output, ended, oom, seen, revision=bool(commit)))
        if found.kind is Kind.USER_ERROR:
            because = f"commit {commit[:12]} cannot run this job: {found.because}"
            found = found._replace(because=f"{because}: leave out what it does not know, or name another revision")
        reason = "; ".join(filter(None, (self._reason(child.returncode, ended), found.because, unkillable)))
        death = _Death(found.kind, reason[:4096], progress.phase, exit_status, output)
        if progress.slot is not None:
            self._ended.add(progress.slot)
            stopped = RunEnded(slot=progress.slot, outcome="stopped", phase=death.phase, reason=death.reason)
            was_stopped = ended in (Ending.CANCELLED, Ending.ORPHANED)
            await self._journal.write(stopped if was_stopped else death.ends_run(progress.slot))
        return death

    def _reason(self, returncode: int | None, ended: Ending | None) -> str:
        where = self._progress.where
        match ended:
            case Ending.CANCELLED | Ending.ORPHANED:
                return self._stop.value if self._stop else ""
            case Ending.DISK:
                return self._journal.broken
            case Ending.BAD_OUTPUT:
                return f"the runner wrote {self._bad_output} {where}"
            case Ending.STALL:
                return f"no progress {where} for {self._visit.deadlines.of(self._progress.phase):g} s"
            case None if returncode == 0:
                return f"the runner exited 0 {where} and {len(self._progress.pending)} slots have not ended"
            case None if returncode == FRESH_PROCESS_EXIT:
                return f"the runner asked for a fresh process {where} and had ended no slot"
            case None:
                return f"the runner died {where}: {describe(returncode)}"
