"""The imperative shell: snapshot -> plan -> effects, and one conversation with each host.

The ledger is written first, then a host is told: a controller killed between the two leaves a visit that the next one
delivers, and a host that never starts a visit twice. Everything runs on one event loop, so the ledger has one writer.
"""

import asyncio
import getpass
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from core.code import code_hash
from core.errors import HillclimbError
from core.failures import MEANING, Kind
from core.ledger.snapshot import OpenVisit, Snapshot
from core.ledger.writer import EndedVisit, Ledger
from core.lifecycle import OPEN_VISITS, HostState, VisitState
from core.protocol import Call, Mode, Observation
from core.protocol import Controller as Caller
from core.visit import Visit
from infra.bundle import Bundle
from infra.pool import HostSpec, Policy
from orchestrator import requests
from orchestrator.desk import Desk
from orchestrator.link import ANSWER_S, WAIT_S, Adopt, Dropped, Health, Held, Ingest, Link, Replace
from orchestrator.placing import CODE_CHANGED, Bundles, Placing
from orchestrator.plan import Assign, Close, Finish, Lose, Pause, Place, Quarantine, TakeBack, World, plan, trouble
from orchestrator.progress import Progress, visit_line
from orchestrator.transport import CutOff, HostDown, HostSilent, Loss, OtherVersion, Transport, read_answer

# How often the ledger is looked at for requests of other processes, and backed-off hosts for their time.
TICK_S = 0.5

# Every round of a plan leaves less to do: far more than any pool has hosts and visits.
ROUNDS = 1000

# How often a host that obeys another ledger is asked whether it still does: it answers at once.
HELD_S = 1.0

# Looking for an actor counts as one unanswered call after this long, and again.
ENSURE_S = 5.0

# Between two attempts to find or make an actor.
RETRY_S = 2.0

# A host lets go when a whole long poll had nothing to say; nobody needs to wait for a long one.
DRAIN_WAIT_S = 0.2

# A runner that is stopped gets TERM, then KILL, and its end must reach the ledger: longer than both take.
RELEASE_S = 20.0


Result = TypeVar("Result")


class Drive:
    """Drives the ledger's open blocks to their end on a pool. Returns why it stopped: `Finish`."""

    def __init__(
        self,
        ledger: Ledger,
        hosts: Sequence[HostSpec],
        transport: Transport,
        progress: Progress,
        code: str,
        scope: set[str] | None,
        policy: Policy,
        bundles: Bundles,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`code`: the hash of the working tree, which hosts must have where `bundles` has none of it."""
        self._ledger = ledger
        self._transport = transport
        self._progress = progress
        self._code = code
        self._scope = scope
        self._policy = policy
        self._clock = clock
        self._desks = {h.name: Desk(h) for h in hosts}
        caller = Caller(user=getpass.getuser(), machine=os.uname().nodename, pid=os.getpid())
        self._links = {h.name: self._link(h.name, caller) for h in hosts}
        self._desired: dict[str, tuple[Visit, ...]] = {h.name: () for h in hosts}
        self._specs: dict[int, Visit] = {}
        self._working_tree = bundles("")
        self._poked = {h.name: asyncio.Event() for h in hosts}
        self._wake = asyncio.Event()
        self._placing = Placing(bundles, self._put, progress.say, clock, self._wake.set)
        self._mode = Mode.RUN
        self._stopping = False
        self._asked = False
        self._outdated = False
        self._unusable_since: float | None = None
        self._told: dict[str, str] = {}
        self._let_go: set[str] = set()
        self._being_reallocated: set[str] = set()
        self._asked_for: dict[str, Mode] = {h.name: Mode.RUN for h in hosts}
        self._conditions: dict[str, tuple[HostState, str]] = {}
        if self._working_tree is not None:
            self._see_bundle(self._working_tree)
        for host in hosts:
            ledger.see_host(host.name, host.machine, host.target.platform.value, host.target.devices)
            self._record(host.name)

    def stop(self) -> None:
        """Assign nothing more; `run` returns when asked to leave or when what runs has ended."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> Finish:
        """Until nothing is left, nothing can be done, or `stop` was called."""
        self._desire(self._ledger.snapshot())
        return await self._meanwhile(self._planned)

    async def release(self) -> None:
        """Stops what still runs, hears of its end, and lets the hosts go, so that another ledger need not wait."""
        self._mode = Mode.DRAIN
        self._desired = dict.fromkeys(self._desired, ())
        deadline = self._clock() + RELEASE_S

        def released() -> bool | None:
            ours = {n for n, d in self._desks.items() if d.state not in {HostState.UNKNOWN, HostState.HELD}}
            return None if ours - self._let_go and self._clock() < deadline else True

        await self._meanwhile(released)

    async def _meanwhile(self, done: Callable[[], Result | None]) -> Result:
        """Talks to every host until `done` has a result; asks it whenever something was heard, and every TICK_S."""
        conversations = [asyncio.create_task(self._converse(name)) for name in self._desks]
        try:
            while True:
                for work in (*conversations, *self._placing.tasks):
                    if work.done():
                        work.result()
                if (result := done()) is not None:
                    return result
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), TICK_S)
        finally:
            for conversation in conversations:
                conversation.cancel()
            await asyncio.gather(*conversations, return_exceptions=True)
            await self._placing.close()

    # -- deciding ------------------------------------------------------------------------------------------------

    def _planned(self) -> Finish | None:
        """Plans and applies until the plan has nothing more to say; then why to stop, if there is a reason."""
        if self._ledger.changed() or not self._asked:
            self._asked = True
            requests.answer_all(self._ledger, self._execute)
        for _ in range(ROUNDS):
            snapshot = self._ledger.snapshot()
            now = self._clock()
            effects = plan(self._world(snapshot, now), now)
            changed = False
            for effect in effects:
                if isinstance(effect, Finish):
                    return effect
                changed |= self._apply(effect, now)
            if not changed:
                self._desire(snapshot)
                self._show(snapshot)
                return Finish() if self._stopping else self._give_up()
        raise RuntimeError(f"the plan undoes what it does, {ROUNDS} times in a row: {effects}")

    def _give_up(self) -> Finish | None:
        """The code below this controller was edited: what it queued cannot be measured any more."""
        if not self._outdated:
            return None
        return Finish(blocked=CODE_CHANGED)

    def _execute(self, ledger: Ledger, verb: str, body: Mapping[str, Any]) -> str:
        """Does what another process asked for. What is queued meanwhile is driven too."""
        if verb != "queue":
            return requests.execute(ledger, verb, body)
        if self._working_tree is not None and body["code"] != self._code and requests.needs_working_tree(body):
            raise HillclimbError(
                f"this code is not what pid {os.getpid()}, which drives the ledger, put on the hosts when it began: "
                "wait for its end, or end it, and queue this again"
            )
        queued = requests.enqueue(ledger, body)
        if self._scope is not None:
            self._scope.add(queued.experiment)
        return "\n".join(queued.sentences)

    def _world(self, snapshot: Snapshot, now: float) -> World:
        views = {name: self._placing.seen_in(desk.view()) for name, desk in self._desks.items()}
        blocks = [b for b in snapshot.blocks if self._scope is None or b.experiment in self._scope]
        # a host in whose place another machine is put will be usable, sooner than anybody's patience ends
        if self._being_reallocated or any(v.is_usable_for(blocks) for v in views.values()):
            self._unusable_since = None
        elif self._unusable_since is None:
            self._unusable_since = now
        scope = None if self._scope is None else frozenset(self._scope)
        return World(
            ledger=snapshot,
            hosts=views,
            scope=scope,
            stopping=self._stopping,
            exclusive=self._policy.exclusive,
            unusable_since=self._unusable_since,
            no_host_s=self._policy.no_host_s,
        )

    def _apply(self, effect: Assign | Place | Close | Lose | TakeBack | Pause | Quarantine, now: float) -> bool:
        """Returns whether anything changed: the ledger has the last word on a visit."""
        match effect:
            case Assign(block, host, order):
                runs_it = any(block.arms[slot].job not in block.codes for slot in order)
                bundle = self._working_tree.id if self._working_tree and runs_it else ""
                self._ledger.lease(block.id, host, order, bundle)
            case Place(host, codes):
                self._placing.begin(host, codes)
            case Close(block, why):
                return self._ledger.close_blocks([block], why) > 0
            case Lose(visit, host, kind, why):
                if not self._ledger.lose(visit, kind, why):
                    return False
                desk = self._desks.get(host)
                if desk is not None and desk.loss is not None:
                    desk.on_visit_lost(why, now)
                self._progress.say(f"visit {visit} is given up as lost: {why}; its block is measured again")
            case TakeBack(visit, host):
                if not self._ledger.take_back(visit):
                    return False
                self._progress.say(f"visit {visit} is alive on {host} after all")
            case Pause(series, experiment, why):
                self._ledger.alarm(series, experiment, why)
                self._progress.say(f"{experiment} is paused: {why}")
            case Quarantine(host, why):
                self._desks[host].quarantine(why, now)
                self._tell(host)
        return True

    def _desire(self, snapshot: Snapshot) -> None:
        """Tells every host its full set: its open visits, and lost ones that may yet prove alive while their block is
        open and nobody else has it. A visit lost with its spool has ended: it is not among them."""
        taken = {v.block for v in snapshot.visits if v.state in OPEN_VISITS}
        wanted: dict[str, list[Visit]] = {name: [] for name in self._desks}
        for visit in snapshot.visits:
            if visit.host in wanted and self._may_run(visit, taken):
                wanted[visit.host].append(self._spec(visit))
        for name, visits in wanted.items():
            if [v.visit for v in visits] != [v.visit for v in self._desired[name]]:
                self._desired[name] = tuple(visits)
                self._poked[name].set()

    @staticmethod
    def _may_run(visit: OpenVisit, taken: set[int]) -> bool:
        if visit.state in OPEN_VISITS:
            return True
        return visit.state is VisitState.LOST and visit.block not in taken

    def _spec(self, visit: OpenVisit) -> Visit:
        if visit.id not in self._specs:
            target = self._desks[visit.host].spec.target
            spec = self._ledger.visit(visit.id, target, self._code, self._policy.deadlines)
            commits = self._placing.refs(dict.fromkeys(slot.job.code for slot in spec.slots if slot.job.code))
            self._specs[visit.id] = spec.model_copy(update={"bundles": spec.bundles | commits})
        return self._specs[visit.id]

    async def _put(self, host: str, bundle: Bundle) -> str:
        """Puts code on a host. Returns why it is not there, or ""."""
        try:
            await self._transport.place(host, bundle)
        except (HostDown, HostSilent, HillclimbError) as error:
            return str(error)
        self._see_bundle(bundle)
        return ""

    def _see_bundle(self, bundle: Bundle) -> None:
        self._ledger.see_bundle(bundle.id, bundle.code, bundle.revision, bundle.diff)

    def _show(self, snapshot: Snapshot) -> None:
        blocks = [b for b in snapshot.blocks if self._scope is None or b.experiment in self._scope]
        running = [v for v in snapshot.visits if v.state in OPEN_VISITS]
        machines = {d.spec.machine for d in self._desks.values()} if self._policy.exclusive else set(self._desks)
        views = [self._placing.seen_in(desk.view()) for desk in self._desks.values()]
        reasons = {v.name: "code is put there" if v.placing else trouble(v) for v in views}
        waiting = "" if running else "; ".join(f"{name}: {why}" for name, why in reasons.items() if why)
        self._progress.left(len(blocks), len(running), len(machines), waiting)

    # -- talking -------------------------------------------------------------------------------------------------

    def _link(self, name: str, caller: Caller) -> Link:
        spool = self._ledger.spool_of(name)
        acked = self._ledger.acked(spool) if spool else 0
        return Link(self._ledger.ledger_id, caller, self._ledger.epoch, spool, acked, self._clock())

    async def _converse(self, name: str) -> None:
        """One host's conversation, for ever; a dead actor is replaced, and tells what became of the visit it had."""
        while True:
            try:
                await self._reallocate(name)
                await self._find(name)
                await self._poll(name)
            except HostDown as down:
                self._transport.discard(name)
                self._placing.forget(name)
                self._desks[name].on_down(str(down))
                await self._miss(name, self._call(name).order, str(down))
                await asyncio.sleep(RETRY_S)
            except HostSilent as silent:
                await self._miss(name, self._call(name).order, str(silent))
                await asyncio.sleep(RETRY_S)

    async def _find(self, name: str) -> None:
        """Waits for the host's actor. Raises HostDown, HostSilent."""
        finding = asyncio.create_task(self._transport.ensure(name))
        try:
            while not (await asyncio.wait({finding}, timeout=ENSURE_S))[0]:
                await self._miss(name, self._call(name).order, "no actor answers there yet")
            finding.result()
        finally:
            finding.cancel()

    async def _poll(self, name: str) -> None:
        """Long polls, and a newer call whenever what is desired changes. Until the host needs to be replaced.

        Raises HostDown, HostSilent.
        """
        poked = self._poked[name]
        while not self._needs_reallocation(name):
            poked.clear()
            call = self._call(name)
            reply = asyncio.create_task(self._transport.sync(name, call.model_dump_json()))
            poke = asyncio.create_task(poked.wait())
            await asyncio.wait({reply, poke}, timeout=call.wait_s + ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
            poke.cancel()
            if reply.done():
                try:
                    wait_s = self._hear(name, read_answer(reply.result()))
                except OtherVersion as other:
                    await self._replace_actor(name, str(other))
                await asyncio.sleep(wait_s)
                continue
            # the answer of an older call, should it still come, is nobody's business
            reply.add_done_callback(lambda task: task.cancelled() or task.exception())
            if not poked.is_set():
                await self._miss(name, call.order, "it does not answer")

    async def _replace_actor(self, name: str, why: str) -> NoReturn:
        """Two controllers of two versions never fight: an actor that somebody needs is left to them.

        Raises HostDown when it is gone, else HostSilent.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                is_gone = await self._transport.replace(name)
        except TimeoutError:
            raise HostSilent(f"{why}: it does not say whether somebody needs it") from None
        if is_gone:
            raise HostDown(f"{why}: it is replaced")
        raise HostSilent(
            f"{why}: it works for somebody else, and is replaced when its visit has ended and its controller has let "
            "it go, or has not called it for its `orphan_s`"
        )

    def _needs_reallocation(self, name: str) -> bool:
        return self._mode is Mode.RUN and not self._stopping and self._desks[name].needs_reallocation(self._clock())

    async def _reallocate(self, name: str) -> None:
        """Has a host replaced that nothing here can help, if its pool can. No call is made to it meanwhile."""
        if not self._needs_reallocation(name):
            return
        desk = self._desks[name]
        if (command := self._transport.reallocate(name)) is None:
            desk.on_reallocation(self._clock())
            return
        self._decided(name, "replaced", f"its pool's command puts another machine in its place: {desk.reason}")
        self._being_reallocated.add(name)
        try:
            wrong = await command
        finally:
            self._being_reallocated.remove(name)
        desk.on_reallocation(self._clock())
        if wrong:
            self._decided(name, "not replaced", wrong)
            return
        self._transport.discard(name)
        self._placing.forget(name)
        desk.on_reallocated()
        self._decided(name, "replaced", "another machine is in its place: it is looked at anew")

    def _decided(self, name: str, what: str, why: str) -> None:
        self._ledger.note(what, why, host=name)
        self._progress.say(f"{name} is {what}: {why}")

    def _call(self, name: str) -> Call:
        mode = self._desks[name].mode if self._mode is Mode.RUN else self._mode
        self._asked_for[name] = mode
        wait_s = DRAIN_WAIT_S if mode is Mode.DRAIN else WAIT_S
        return self._links[name].next_call(self._desired[name], mode, self._clock(), wait_s)

    async def _miss(self, name: str, order: tuple[int, int], reason: str) -> None:
        """A call was not answered. What Ray says of the host's end is a reason, never a reason to be quicker."""
        link = self._links[name]
        try:
            loss = await self._transport.loss(name) or Loss(Kind.HOST_LOST, reason)
        except CutOff as cut:
            link.on_cut_off(self._clock())
            self._desks[name].on_cut_off(str(cut))
        else:
            link.on_miss(order, self._clock())
            is_lost = link.health(self._clock()) is Health.LOST
            self._desks[name].on_miss(loss.kind if is_lost else None, loss.reason)
        self._tell(name)
        self._wake.set()

    def _hear(self, name: str, reply: Observation) -> float:
        """Folds an answer in: events into the ledger first, then the host's state. Raises OtherVersion.

        Returns how many seconds to wait before the next call: a host that has nothing to say to us says so at once.
        """
        wait_s = 0.0
        link, desk, now = self._links[name], self._desks[name], self._clock()
        match link.on_reply(reply, now):
            case Ingest(seen, entries, fault):
                if fault:
                    self._ledger.note(fault.fault, fault.detail, host=name)
                if entries:
                    done = self._ledger.ingest(seen.spool_id, name, entries)
                    link.committed(seen.spool_id, done.acked_seq)
                    for ended in done.ended:
                        self._report(ended)
                desk.on_observation(seen, now)
                # a host in service, set aside or drained by a person: all are ours until they have let go
                if seen.mode is Mode.DRAIN and not (seen.alive or seen.entries or seen.recovering):
                    self._let_go.add(name)
            case Adopt(spool_id, _):
                for visit in self._ledger.new_spool(name, spool_id):
                    self._progress.say(f"visit {visit} is lost: {name} has no record of it any more")
                link.adopted(spool_id, self._ledger.acked(spool_id))
                # it may be another disk
                self._placing.forget(name)
                # what was lost with the spool must not be in the next call: the new spool does not know that it began
                self._desire(self._ledger.snapshot())
            case Held():
                desk.on_observation(reply, now)
                wait_s = HELD_S
            case Replace(protocol):
                raise OtherVersion(protocol)
            case Dropped():
                return TICK_S
        self._tell(name)
        self._wake.set()
        return wait_s

    def _tell(self, name: str) -> None:
        """Records a change of a host's condition, says it once when it is for the worse, asks for what follows."""
        if self._mode is not Mode.RUN:
            return  # a host that is being let go says that it drains: that is no condition of it
        desk = self._desks[name]
        self._record(name)
        if desk.mode is not self._asked_for[name] or self._needs_reallocation(name):
            self._poked[name].set()
        is_well = desk.state in {HostState.READY, HostState.BUSY}
        said = "" if is_well or not desk.reason else f"{name} is {desk.state}: {desk.reason}"
        before = self._told.get(name, "")
        if said and said != before:
            self._progress.say(said)
        elif before and is_well:
            self._progress.say(f"{name} is ready again")
        if said or is_well:
            self._told[name] = said

    def _record(self, name: str) -> None:
        """Writes down how a host stands; that it has a visit, the visits themselves tell."""
        desk = self._desks[name]
        state = HostState.READY if desk.state is HostState.BUSY else desk.state
        reason = trouble(self._placing.seen_in(desk.view()))
        if self._conditions.get(name) != (state, reason):
            self._conditions[name] = (state, reason)
            self._ledger.see_condition(name, state, reason)

    def _report(self, ended: EndedVisit) -> None:
        kinds = {kind for kind in (ended.kind, *(run.kind for run in ended.runs)) if kind is not None}
        why = ended.reason or "; ".join(f"{kind}: {MEANING[kind].advice}" for kind in sorted(kinds))
        self._desks[ended.host].on_visit_ended(kinds, why, self._clock())
        self._progress.visit_ended(visit_line(ended), ended.wall_s)
        if ended.kind is Kind.ENVIRONMENT_MISMATCH:
            # code that was there may have been removed by hand
            self._placing.forget(ended.host)
            self._outdated |= self._working_tree is None and code_hash() != self._code
