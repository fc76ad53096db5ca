"""The shell with a real ledger, a real host service and real runners, and a transport whose faults are chosen."""

import asyncio
import io
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.code import code_hash
from core.errors import HillclimbError
from core.ledger.requests import ask, wait_for_answer
from core.ledger.writer import Ledger, OnChange
from core.matrix import NO_OVERRIDES, Expansion, expand
from core.protocol import PROTOCOL, Call, Controller
from core.visit import Target
from infra.bundle import Bundle, bundle_of
from infra.pool import HostSpec, LocalPool, Policy, PoolError
from infra.sync import place_here
from orchestrator import link, placing
from orchestrator.controller import HELD_S, TICK_S, Drive
from orchestrator.desk import QUARANTINE_S
from orchestrator.plan import Finish
from orchestrator.progress import Progress
from orchestrator.requests import REFUSED, queue_body
from orchestrator.transport import CutOff, HostDown, HostSilent
from tests.orchestrator.test_end_to_end import rows
from tests.workers.host.metadata_server import FALSE, TRUE, Server
from workers.host import disk
from workers.host.config import HostConfig
from workers.host.service import HostService

MATRIX = """
[experiment]
id = "driven"
goal = "Does the shell do what the plan says?"
[job]
kind = "selftest"
sleep_s = 0.2
[axes]
seed = [1, 2]
[baseline]
seed = 1
[measure]
blocks = 2
iters = 2
warmup = 0
"""


# What an actor of an earlier version says to every call, with words in it that are no longer known.
OLDER = '{"protocol": 1, "host": "h", "epoch": 1, "generation": 1, "answer": "other_protocol", "mood": "fine"}'


class Wire:
    """Calls reach the host's service in this process, unless a fault is on."""

    def __init__(self, state: Path) -> None:
        self.bundles_folder = state / "bundles"
        self._config = HostConfig(
            host="h", state=str(state), bundles=str(self.bundles_folder), target=Target(), grace_s=0.5
        )
        self._service: HostService | None = None
        self._dying: asyncio.Task[None] | None = None
        self.fault: Callable[[], Exception | None] = lambda: None
        self.made = 0
        self.calls = 0
        # the commits whose code was put there, what else that takes, and whether this controller lacks them
        self.placed: list[str] = []
        self.on_place: Callable[[], Awaitable[None]] | None = None
        self.lacks_commit = False
        # what the working tree is sent as; None: the host's own code is the working tree
        self.tree: Bundle | None = None
        # what comes in place of the next answers
        self.odd_answers: list[str] = []
        # an actor of another version, and whether nobody needs it
        self.older = False
        self.is_free: Callable[[], bool] = lambda: True
        self.asked_to_replace = 0
        self.another_machine: Callable[[], Coroutine[Any, Any, str]] | None = None

    async def ensure(self, _: str) -> None:
        if self._dying:
            await self._dying
        if self._service is None:
            self._service = HostService(self._config)
            self.made += 1

    async def sync(self, _: str, call: str) -> str:
        self.calls += 1
        if error := self.fault():
            raise error
        assert self._service is not None
        if self.odd_answers:
            return self.odd_answers.pop()
        if self.older:
            return OLDER
        return await self._service.sync(call)

    def discard(self, _: str) -> None:
        """As `ray.kill` does: the actor is gone, and its runner with it."""
        self.older = False
        self._service, dead = None, self._service
        if dead is not None:
            self._dying = asyncio.create_task(dead.close())

    async def replace(self, _: str) -> bool:
        """Whether the service of another version is free, as `HostActor.is_outlived` tells."""
        self.asked_to_replace += 1
        if not self.is_free():
            return False
        self.discard("h")
        return True

    def reallocate(self, _: str) -> Coroutine[Any, Any, str] | None:
        return self.another_machine() if self.another_machine else None

    async def loss(self, _: str) -> None:
        return None

    def bundles(self, code: str) -> Bundle | None:
        """Of any commit, today's code."""
        if code and self.lacks_commit:
            raise HillclimbError(f"no such commit here: {code}")
        return bundle_of("")._replace(revision=code, code="code of the old commit") if code else self.tree

    async def place(self, _: str, bundle: Bundle) -> None:
        if self.on_place:
            await self.on_place()
        await asyncio.to_thread(place_here, bundle, self.bundles_folder)
        self.placed.append(bundle.revision)

    def renew(self, **config: str) -> None:
        """Another machine is in the host's place: nothing of the old one is there."""
        self.discard("h")
        self._config = self._config.model_copy(update=config)

    async def close(self) -> None:
        if self._service is not None:
            await self._service.close()


class Shell:
    """A ledger with the matrix queued, and what drives it."""

    def __init__(self, root: Path, wanted: Expansion | None = None) -> None:
        self.path = root / "ledger.db"
        self.said = io.StringIO()
        self.wire = Wire(root / "state")
        self._ledger = Ledger.open(self.path)
        self._ledger.enqueue(wanted or expand(MATRIX, "driven.toml"), code_hash(), OnChange.REFUSE)

    async def drive(self) -> None:
        finish = await self.run_with(LocalPool())
        assert (finish.blocked, finish.paused) == ("", "")

    async def run_with(self, policy: Policy) -> Finish:
        """Drives what is queued. Returns why that ended."""
        progress = Progress(Console(file=self.said), time.monotonic)
        hosts = [HostSpec(name="h", machine="m", target=Target(), selector={})]
        drive = Drive(self._ledger, hosts, self.wire, progress, code_hash(), {"driven"}, policy, self.wire.bundles)
        async with asyncio.timeout(90):
            finish = await drive.run()
            await drive.release()
        await self.wire.close()
        return finish

    def lease(self, tree: Bundle) -> None:
        """As a controller does that ends before it has told the host."""
        self._ledger.see_bundle(tree.id, tree.code, tree.revision, tree.diff)
        self._ledger.see_host("h", "m", "cpu", 4)
        self._ledger.lease(self._ledger.snapshot().blocks[0].id, "h", (0, 1), tree.id)

    def rows(self, query: str) -> list[tuple]:
        return rows(self.path, query)

    def close(self) -> None:
        self._ledger.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


async def test_drive_measures_every_block_once(shell: Shell) -> None:
    await shell.drive()
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    assert shell.rows("SELECT count(*) FROM block WHERE accepted_visit ISNULL") == [(0,)]
    assert shell.rows("SELECT DISTINCT outcome FROM run") == [("ok",)]
    assert "visit 2 on h: block 2 of driven, 2 ok" in shell.said.getvalue()


async def test_drive_through_a_silence_loses_and_repeats_nothing(shell: Shell) -> None:
    silent_until = 0.0

    def fault() -> Exception | None:
        nonlocal silent_until
        if not silent_until and shell.rows("SELECT id FROM visit WHERE state = 'running'"):
            silent_until = time.monotonic() + 3
        return HostSilent("the link is cut") if time.monotonic() < silent_until else None

    shell.wire.fault = fault
    await shell.drive()
    assert "h is suspect: the link is cut" in shell.said.getvalue()
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    assert shell.wire.made == 1


async def test_drive_of_a_host_that_says_what_is_no_answer_asks_it_again(shell: Shell) -> None:
    shell.wire.odd_answers = ["", "null", "\x1b[2J", "{}", f'{{"protocol": {PROTOCOL}, "host": 7}}']
    await shell.drive()
    assert shell.wire.odd_answers == []
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    assert shell.wire.made == 1


@pytest.mark.parametrize("cut_off", [True, False])
async def test_drive_gives_a_silent_host_s_visit_up_unless_it_is_itself_cut_off(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    monkeypatch.setattr(link, "LOST_S", 0.5)
    monkeypatch.setattr(link, "LOST_MISSES", 1)
    silent_until = 0.0

    def fault() -> Exception | None:
        nonlocal silent_until
        if not silent_until and shell.rows("SELECT id FROM visit WHERE state = 'running'"):
            silent_until = time.monotonic() + 3
        return HostSilent("no answer") if time.monotonic() < silent_until else None

    async def loss(_: str) -> None:
        if cut_off and time.monotonic() < silent_until:
            raise CutOff("this laptop's link is cut")

    shell.wire.fault = fault
    shell.wire.loss = loss
    await shell.drive()
    said = shell.said.getvalue()
    assert f"h is suspect: {'this laptop' if cut_off else 'no answer'}" in said
    assert ("visit 1 is given up as lost" in said) is not cut_off


async def test_drive_with_a_dead_actor_makes_another_and_measures_its_block_again(shell: Shell) -> None:
    died = False

    def fault() -> Exception | None:
        nonlocal died
        if not died and shell.rows("SELECT visit FROM event WHERE event = 'runner_began'"):
            died = True
            return HostDown("the actor died")
        return None

    shell.wire.fault = fault
    await shell.drive()
    assert died
    assert shell.wire.made == 2
    assert shell.rows("SELECT state, kind FROM visit ORDER BY id")[0] == ("failed", "worker_lost")
    assert shell.rows("SELECT count(*) FROM block WHERE accepted_visit ISNULL") == [(0,)]


def _cancel_when(shell: Shell, query: str, silent: bool = False) -> Callable[[], Exception | None]:
    """Somebody cancels the experiment once `query` has rows; until that is done the host may be `silent`."""
    asked = False

    def fault() -> Exception | None:
        nonlocal asked
        if not asked and shell.rows(query):
            asked = True
            ask(shell.path, "cancel", {"experiment": "driven", "where": {}}, "somebody")
        waits = asked and shell.rows("SELECT id FROM request WHERE answer ISNULL")
        return HostSilent("it is slow") if silent and waits else None

    return fault


async def test_drive_whose_visit_is_cancelled_before_its_host_heard_of_it_never_begins_it(shell: Shell) -> None:
    shell.wire.fault = _cancel_when(shell, "SELECT id FROM visit WHERE state = 'leased'", silent=True)
    await shell.drive()
    assert shell.rows("SELECT state, kind FROM visit") == [("cancelled", "cancelled")]
    assert shell.rows("SELECT count(*) FROM event WHERE event = 'visit_began'") == [(0,)]
    assert shell.rows("SELECT count(*) FROM block WHERE closed LIKE 'cancelled%'") == [(2,)]


async def test_drive_whose_visit_is_cancelled_while_it_runs_stops_its_runner(shell: Shell) -> None:
    shell.wire.fault = _cancel_when(shell, "SELECT visit FROM event WHERE event = 'runner_began'")
    await shell.drive()
    assert shell.rows("SELECT state, kind FROM visit") == [("cancelled", "cancelled")]
    ends = "SELECT json_extract(body, '$.state') FROM event WHERE event = 'visit_ended'"
    assert shell.rows(ends) == [("cancelled",)]
    (status,) = shell.rows("SELECT json_extract(body, '$.exit_status') FROM event WHERE event = 'runner_exited'")
    assert status == ("signal 15 (SIGTERM)",)
    assert "stopped" in {outcome for (outcome,) in shell.rows("SELECT outcome FROM run")}


async def test_drive_cancelled_after_a_visit_s_end_keeps_what_it_measured(shell: Shell) -> None:
    shell.wire.fault = _cancel_when(shell, "SELECT id FROM visit WHERE state = 'finished'")
    await shell.drive()
    assert shell.rows("SELECT state FROM visit WHERE id = 1") == [("finished",)]
    assert shell.rows("SELECT count(*) FROM block WHERE accepted_visit = 1") == [(1,)]
    assert shell.rows("SELECT count(*) FROM block WHERE closed LIKE 'cancelled%'") == [(1,)]
    assert shell.rows("SELECT DISTINCT outcome FROM run WHERE visit = 1") == [("ok",)]


async def test_drive_of_a_host_that_somebody_else_holds_asks_now_and_then_and_goes_on_when_it_is_free(
    shell: Shell,
) -> None:
    other = HostService(HostConfig(host="h", state=str(shell.path.parent / "state")))
    ann = Controller(user="ann", machine="lab", pid=7)
    await other.sync(Call(ledger_id="hers", controller=ann, epoch=1, generation=1, wait_s=0).model_dump_json())
    driving = asyncio.create_task(shell.drive())
    until = time.monotonic() + 4 * HELD_S
    while "h is held" not in shell.said.getvalue() or time.monotonic() < until:
        assert not driving.done()
        await asyncio.sleep(0.1)
    assert "h is held: held by ann (lab:7) since 2" in shell.said.getvalue()
    # one more for the moment before the first answer
    assert 2 <= shell.wire.calls <= 4 / HELD_S + 2
    await other.close()
    await driving
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    assert shell.said.getvalue().count("h is ready again") == 1


# -- an actor of another version


async def test_drive_leaves_an_actor_of_another_version_alone_while_somebody_needs_it_and_replaces_it_then(
    shell: Shell,
) -> None:
    shell.wire.older = True
    shell.wire.is_free = lambda: "works for somebody else" in shell.said.getvalue()
    await shell.drive()
    # it is said when the host has been out of reach for some time; until then it was asked again and again
    assert "h is unknown: its actor speaks protocol 1, this hillclimb" in shell.said.getvalue()
    assert shell.wire.asked_to_replace >= 4
    assert (shell.wire.made, shell.wire.older) == (2, False)
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]


# -- another machine in the host's place


def _decisions(shell: Shell) -> list[tuple[str, str]]:
    query = "SELECT json_extract(body, '$.what'), json_extract(body, '$.why') FROM event WHERE event = 'decided'"
    return [row for row in shell.rows(query) if "replaced" in row[0]]


async def test_drive_of_a_host_that_the_ladder_cannot_help_has_it_replaced_and_looks_at_it_anew(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 2**60)
    replaced = 0

    async def another_machine() -> str:
        nonlocal replaced
        replaced += 1
        calls = shell.wire.calls
        await asyncio.sleep(2 * TICK_S)
        assert shell.wire.calls == calls
        monkeypatch.undo()
        shell.wire.renew(state=str(shell.path.parent / "another"))
        return ""

    shell.wire.another_machine = another_machine
    began = time.monotonic()
    await shell.drive()
    assert time.monotonic() - began < QUARANTINE_S
    assert (replaced, shell.wire.made) == (1, 2)
    (why, how) = _decisions(shell)
    assert why[0] == how[0] == "replaced"
    assert "its pool's command puts another machine in its place: not recovered: " in why[1]
    assert "h is replaced: another machine is in its place" in shell.said.getvalue()
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]


async def test_drive_of_a_host_that_could_not_be_replaced_says_why_and_asks_no_second_time(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 2**60)
    monkeypatch.setattr("orchestrator.desk.QUARANTINE_S", 1.0)
    asked = 0

    async def no_machine() -> str:
        nonlocal asked
        asked += 1
        return "`gcloud` failed (exit 1): no capacity"

    def fault() -> None:
        # the second quarantine: the ladder has failed once more
        if shell.said.getvalue().count("h is quarantined") >= 2:
            monkeypatch.undo()

    shell.wire.another_machine = no_machine
    shell.wire.fault = fault
    await shell.drive()
    assert asked == 1
    assert _decisions(shell)[-1] == ("not replaced", "`gcloud` failed (exit 1): no capacity")
    assert shell.said.getvalue().count("h is quarantined: not recovered: ") >= 2
    assert shell.rows("SELECT state FROM visit") == [("finished",), ("finished",)]


@pytest.mark.slow
async def test_drive_of_a_host_that_said_it_would_be_taken_away_calls_its_loss_preempted_and_has_it_replaced(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Server(FALSE)) as server:
        is_gone = False

        def fault() -> Exception | None:
            nonlocal is_gone
            if shell.wire.made == 1 and shell.rows("SELECT visit FROM event WHERE event = 'runner_began'"):
                server.answers[:] = [TRUE]
                is_gone = "preempted" in str(shell.rows("SELECT body FROM event WHERE event = 'probed'"))
            return HostSilent("no route to it") if is_gone and shell.wire.made == 1 else None

        async def another_machine() -> str:
            server.answers[:] = [FALSE]
            shell.wire.renew(state=str(shell.path.parent / "another"))
            return ""

        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        shell.wire.renew(preemption="gce")
        shell.wire.fault = fault
        shell.wire.another_machine = another_machine
        await shell.drive()
        assert is_gone
    lost = shell.rows("SELECT json_extract(body, '$.why') FROM event WHERE event = 'decided' AND body LIKE '%lost%'")
    assert any("preempted" in str(why) for why in lost)
    assert [what for what, _ in _decisions(shell)] == ["replaced", "replaced"]
    assert shell.rows("SELECT state, kind FROM visit ORDER BY id")[0] == ("lost", "preempted")
    assert shell.rows("SELECT count(*) FROM block WHERE accepted_visit ISNULL") == [(0,)]


# -- the code of commits

OLD = "0" * 40
CODED = MATRIX.replace("[axes]\nseed = [1, 2]", '[axes]\ncode = ["old", "."]').replace("seed = 1", 'code = "old"')


@pytest.fixture
def coded(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose matrix compares a commit, which holds today's code, with the working tree."""
    shell = Shell(tmp_path, expand(CODED, "driven.toml", revisions={"old": OLD}))
    yield shell
    shell.close()


async def test_drive_of_a_commit_puts_its_code_there_first_and_measures_it_in_the_same_visit(coded: Shell) -> None:
    await coded.drive()
    assert coded.wire.placed == [OLD]
    assert coded.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    runs = (
        "SELECT json_extract(j.spec, '$.code'), r.outcome, json_extract(e.facts, '$.code') "
        "FROM run r JOIN job j ON j.id = r.job JOIN environment e ON e.id = r.environment WHERE r.visit = 1 ORDER BY 1"
    )
    assert coded.rows(runs) == [("", "ok", code_hash()), (OLD, "ok", "code of the old commit")]
    assert coded.rows("SELECT code, revision FROM bundle") == [("code of the old commit", OLD)]
    assert coded.rows("SELECT DISTINCT bundle FROM visit") == [("",)]


async def test_drive_whose_code_does_not_arrive_at_first_says_so_once_and_goes_on_polling(coded: Shell) -> None:
    failures = [HostSilent("the link is cut"), PoolError("the disk is full"), PoolError("the disk is full")]
    calls_before: list[int] = []

    async def place() -> None:
        calls_before.append(coded.wire.calls)
        # longer than an answer takes: the host is asked meanwhile
        while coded.wire.calls < calls_before[-1] + 2:
            await asyncio.sleep(0.01)
        if failures:
            raise failures.pop(0)

    coded.wire.on_place = place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "BACKOFF_S", 0.1)
        await coded.drive()
    assert len(calls_before) == 4
    assert coded.rows("SELECT state FROM visit") == [("finished",), ("finished",)]
    said = coded.said.getvalue()
    assert said.count("the code of commit 000000000000 is not on h: the link is cut; it is tried again") == 1
    assert said.count("is not on h: the disk is full; it is tried again") == 1
    assert "h is suspect" not in said


async def test_drive_of_a_commit_that_is_not_known_here_ends_blocked_and_says_so(coded: Shell) -> None:
    coded.wire.lacks_commit = True
    finish = await coded.run_with(LocalPool(no_host_s=6.0))
    assert "no usable host for 6 s: h is ready (the code of commit 000000000000 is not there: no such" in finish.blocked
    assert coded.rows("SELECT count(*) FROM visit") == [(0,)]
    ((state, reason),) = coded.rows("SELECT state, reason FROM condition")
    assert (state, reason.startswith("the code of commit 000000000000 is not there: no such commit")) == ("ready", True)


TREE_OF_VISITS = (
    "SELECT v.state, v.kind, v.bundle, (SELECT group_concat(DISTINCT json_extract(e.facts, '$.code')) FROM run r "
    "JOIN environment e ON e.id = r.environment WHERE r.visit = v.id) FROM visit v ORDER BY v.id"
)


@pytest.fixture
def trees(shell: Shell) -> tuple[Bundle, Bundle]:
    """A working tree a visit was leased with by a controller that did not come to deliver it, and today's."""
    leased = bundle_of("")._replace(code="code of the leased tree")
    edited = leased._replace(id="e" * 64, code="code of the edited tree")
    shell.lease(leased)
    shell.wire.tree = edited
    place_here(edited, shell.wire.bundles_folder)
    return leased, edited


async def test_drive_of_a_visit_of_an_earlier_controller_runs_the_code_it_was_leased_with(
    shell: Shell, trees: tuple[Bundle, Bundle]
) -> None:
    leased, edited = trees
    place_here(leased, shell.wire.bundles_folder)
    await shell.drive()
    assert shell.rows(TREE_OF_VISITS) == [
        ("finished", None, leased.id, leased.code),
        ("finished", None, edited.id, edited.code),
    ]


async def test_drive_of_a_visit_whose_leased_code_is_gone_measures_its_block_with_todays(
    shell: Shell, trees: tuple[Bundle, Bundle]
) -> None:
    leased, edited = trees
    await shell.drive()
    first, *others = shell.rows(TREE_OF_VISITS)
    assert first == ("failed", "environment_mismatch", leased.id, None)
    assert others == [("finished", None, edited.id, edited.code)] * 2


async def test_drive_of_a_block_of_commits_alone_names_no_working_tree(tmp_path: Path) -> None:
    wanted = expand(CODED.replace('"."', '"older"'), "driven.toml", revisions={"old": OLD, "older": "1" * 40})
    shell = Shell(tmp_path, wanted)
    shell.wire.tree = bundle_of("")
    await shell.drive()
    assert shell.rows("SELECT state, bundle FROM visit") == [("finished", ""), ("finished", "")]
    shell.close()


@pytest.mark.parametrize(("arms", "is_refused"), [("", True), ('code = ["old", "older"]\n', False)])
async def test_drive_asked_to_measure_code_that_was_edited_since_it_sent_it_refuses_and_goes_on(
    shell: Shell, arms: str, is_refused: bool
) -> None:
    shell.wire.tree = bundle_of("")
    place_here(shell.wire.tree, shell.wire.bundles_folder)
    other = MATRIX.replace('"driven"', '"other"')
    queued = queue_body(other, "other.toml", NO_OVERRIDES, OnChange.REFUSE) | {"code": "edited"}
    if arms:
        commits = {"old": OLD, "older": "1" * 40}
        queued |= {"text": other.replace("[axes]\n", f"[axes]\n{arms}"), "revisions": commits}
    asked: list[int] = []

    def fault() -> Exception | None:
        if not asked:
            asked.append(ask(shell.path, "queue", queued, "ann"))
        return None

    shell.wire.fault = fault
    await shell.drive()
    answer = wait_for_answer(shell.path, asked[0], 0.0)
    assert answer is not None
    assert ("this code is not what pid" in answer) == bool(REFUSED.match(answer)) == is_refused
    finished = (
        "SELECT s.experiment, count(*) FROM visit v JOIN block b ON b.id = v.block JOIN series s ON s.id = b.series "
    )
    others = [] if is_refused else [("other", 4)]
    assert shell.rows(f"{finished} WHERE v.state = 'finished' GROUP BY 1 ORDER BY 1") == [("driven", 2), *others]


async def test_drive_whose_bundle_was_removed_on_the_host_puts_it_there_again(coded: Shell) -> None:
    removed = False

    def fault() -> Exception | None:
        nonlocal removed
        if not removed and coded.rows("SELECT id FROM visit WHERE state = 'finished'"):
            removed = True
            shutil.rmtree(coded.wire.bundles_folder)
        return None

    coded.wire.fault = fault
    await coded.drive()
    assert removed
    assert coded.wire.placed == [OLD, OLD]
    ends = [("finished", None), ("failed", "environment_mismatch"), ("finished", None)]
    assert coded.rows("SELECT state, kind FROM visit ORDER BY id") == ends
