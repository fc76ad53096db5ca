"""The shell with a real ledger, a real host service and real runners, and a transport whose faults are chosen."""

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from core.code import code_hash
from core.ledger.requests import ask
from core.ledger.writer import Ledger, OnChange
from core.matrix import expand
from core.protocol import Call, Controller
from core.visit import Target
from infra.pool import HostSpec, LocalPool
from orchestrator.controller import HELD_S, Drive, HostDown, HostSilent
from orchestrator.progress import Progress
from tests.orchestrator.test_end_to_end import rows
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


class Wire:
    """Calls reach the host's service in this process, unless a fault is on."""

    def __init__(self, state: Path) -> None:
        self._config = HostConfig(host="h", state=str(state), target=Target(), grace_s=0.5)
        self._service: HostService | None = None
        self._dying: asyncio.Task[None] | None = None
        self.fault: Callable[[], Exception | None] = lambda: None
        self.made = 0
        self.calls = 0

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
        return await self._service.sync(call)

    def discard(self, _: str) -> None:
        """As `ray.kill` does: the actor is gone, and its runner with it."""
        self._service, dead = None, self._service
        if dead is not None:
            self._dying = asyncio.create_task(dead.close())

    async def loss(self, _: str) -> None:
        return None

    async def close(self) -> None:
        if self._service is not None:
            await self._service.close()


class Shell:
    """A ledger with the matrix queued, and what drives it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "ledger.db"
        self.said = io.StringIO()
        self.wire = Wire(root / "state")
        self._ledger = Ledger.open(self.path)
        self._ledger.enqueue(expand(MATRIX, "driven.toml"), code_hash(), OnChange.REFUSE)

    async def drive(self) -> None:
        progress = Progress(Console(file=self.said), time.monotonic)
        hosts = [HostSpec(name="h", machine="m", target=Target(), selector={})]
        drive = Drive(self._ledger, hosts, self.wire, progress, code_hash(), {"driven"}, LocalPool())
        async with asyncio.timeout(90):
            finish = await drive.run()
            await drive.release()
        assert (finish.blocked, finish.paused) == ("", "")
        await self.wire.close()

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
