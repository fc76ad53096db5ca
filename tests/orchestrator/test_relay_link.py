"""A controller's end of a relay, with programs at the other end that do what a relay may come to do."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from core.protocol import REPLY_BYTES
from infra.ssh import SshError
from orchestrator import relay_link
from orchestrator.relay_link import PAUSES_S, RelayLink
from orchestrator.relayed import Do, Setup
from orchestrator.transport import HostDown, HostSilent
from tests.conftest import wait_until
from tests.orchestrator.near import Session

SETUP = Setup(address="10.0.0.1:6379", token="/token", hosts=())

# Answers its setup; then `asked` does something about every request but pings, which it answers.
PROGRAM = """
import json, os, sys, time
def say(id, text="", how="said"): print(json.dumps({"id": id, "how": how, "text": text}), flush=True)
json.loads(sys.stdin.readline())["address"]
say(0)
held = []
for line in sys.stdin:
    ask = json.loads(line)
    if ask["do"] == "ping": say(ask["id"]); continue
    id, host, text = ask["id"], ask["host"], ask["text"]
    ASKED
"""
ECHO = "say(id, host + text)"


class Programs:
    """What is begun one after the other; the last again and again."""

    def __init__(self, *asked: str) -> None:
        self._programs = [PROGRAM.replace("ASKED", each) for each in asked]
        self.sessions: list[Session] = []

    def begin(self) -> Session:
        program = self._programs[min(len(self.sessions), len(self._programs) - 1)]
        self.sessions.append(Session(sys.executable, "-c", program))
        return self.sessions[-1]


@pytest.fixture
def linked() -> Iterator[Callable[..., tuple[Programs, RelayLink]]]:
    made: list[tuple[Programs, RelayLink]] = []

    def make(*asked: str) -> tuple[Programs, RelayLink]:
        programs = Programs(*asked)
        made.append((programs, RelayLink(programs.begin, lambda: SETUP)))
        return made[-1]

    yield make
    for programs, link in made:
        link.close()
        wait_until(_nobody_keeps_a_relay)
        for session in programs.sessions:
            session.end()


def _nobody_keeps_a_relay() -> bool:
    return not [thread for thread in threading.enumerate() if "relay" in thread.name]


Linked = Callable[..., tuple[Programs, RelayLink]]


async def test_link_gives_each_request_its_own_answer_whatever_their_order(linked: Linked) -> None:
    _, link = linked("held.append((id, text))\n    if len(held) == 3: [say(*each) for each in reversed(held)]")
    await link.up()
    assert await asyncio.gather(*(link.ask(Do.SYNC, "h", text) for text in "abc")) == ["a", "b", "c"]


async def test_link_carries_a_reply_of_the_largest_size(linked: Linked) -> None:
    _, link = linked("say(id, text * 2)")
    text = '{"quote":"\\\\"}' * (REPLY_BYTES // 14)
    await link.up()
    assert await link.ask(Do.SYNC, "h", text) == text * 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("say(id, 'dead', 'down')", HostDown),
        ("say(id, 'dead', 'silent')", HostSilent),
        ("say(id, 'dead', 'broken')", HostSilent),
    ],
)
async def test_link_says_what_became_of_a_host(linked: Linked, answer: str, error: type[Exception]) -> None:
    _, link = linked(answer)
    await link.up()
    with pytest.raises(error, match="dead"):
        await link.ask(Do.SYNC, "h")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os._exit(1)", "it has ended"),
        ("os.kill(os.getpid(), 9)", "it has ended"),
        ("print('Last login: Sat Nov 21', flush=True)", "it said what is no answer"),
        ("print('{\"id\": 1}{', flush=True)", "it said what is no answer"),
        ("say(0)", "it said twice that it is up"),
        ("sys.stdout.write('x' * 9_000_000); sys.stdout.flush()", "a line of more than 4194304 bytes"),
    ],
)
async def test_link_that_loses_its_relay_in_mid_call_is_silent_and_begins_another(
    linked: Linked, fault: str, reason: str
) -> None:
    programs, link = linked(fault, ECHO)
    await link.up()
    first, second = (asyncio.create_task(link.ask(Do.SYNC, host, "x")) for host in "ab")
    for task in (first, second):
        with pytest.raises(HostSilent, match=reason):
            await task
    await link.up()
    assert await link.ask(Do.SYNC, "a", "b") == "ab"
    assert len(programs.sessions) == 2
    assert programs.sessions[0].is_closed


async def test_link_whose_relay_is_stopped_does_not_wait_for_it(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_link, "PING_S", 0.1)
    programs, link = linked(ECHO)
    assert "is being started" in link.silence
    await link.up()
    assert link.silence == ""
    stopped = programs.sessions[0].process
    os.kill(stopped.pid, signal.SIGSTOP)
    call = asyncio.create_task(link.ask(Do.SYNC, "a"))
    # long before it counts as lost no host is to blame
    await asyncio.to_thread(wait_until, lambda: link.silence)
    assert not call.done()
    with pytest.raises(HostSilent, match="it has not answered for 1 s"):
        await call
    assert "it has not answered for 1 s" in link.silence
    await link.up()
    assert await link.ask(Do.SYNC, "a", "b") == "ab"
    # it finds its input at an end
    os.kill(stopped.pid, signal.SIGCONT)
    await asyncio.to_thread(
        wait_until, lambda: stopped.poll() is not None, what="the end of the relay that was stopped"
    )


async def test_link_with_nothing_to_ask_keeps_its_relay(linked: Linked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_link, "PING_S", 0.02)
    programs, link = linked(ECHO)
    await link.up()
    await asyncio.sleep(0.02 * relay_link.PINGS * 3)
    assert await link.ask(Do.SYNC, "a", "b") == "ab"
    assert len(programs.sessions) == 1


async def test_link_without_a_relay_says_at_once_that_there_is_none(linked: Linked) -> None:
    programs, link = linked(ECHO)
    with pytest.raises(HostSilent, match="is being started"):
        await link.ask(Do.SYNC, "h")
    assert programs.sessions == []


async def test_link_that_cannot_begin_says_why_and_tries_again_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_link, "PAUSES_S", tuple(each / 10 for each in PAUSES_S))
    began: list[float] = []

    def begin() -> Session:
        began.append(time.monotonic())
        raise SshError(f"head: attempt {len(began)} was refused")

    link = RelayLink(begin, lambda: SETUP)
    try:
        for attempt in range(1, 6):
            with pytest.raises(HostSilent, match=f"attempt {attempt} was refused"):
                await link.up()
    finally:
        link.close()
    pauses = [after - before for before, after in pairwise(began)]
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.5, 0.5), strict=True))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise ModuleNotFoundError('no ray here')", "ModuleNotFoundError: no ray here"),
        (
            'import sys; sys.stdin.readline(); print(\'{"id": 0, "how": "silent", "text": "no cluster"}\')',
            ": no cluster$",
        ),
    ],
)
async def test_link_whose_relay_does_not_come_up_says_why(program: str, reason: str) -> None:
    sessions: list[Session] = []

    def begin() -> Session:
        sessions.append(Session(sys.executable, "-c", program))
        return sessions[-1]

    link = RelayLink(begin, lambda: SETUP)
    try:
        with pytest.raises(HostSilent, match=reason):
            await link.up()
    finally:
        link.close()
        await asyncio.to_thread(wait_until, _nobody_keeps_a_relay)
        for session in sessions:
            session.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_link_with_a_bug_is_not_taken_for_a_silence() -> None:
    def begin() -> Session:
        raise ZeroDivisionError

    link = RelayLink(begin, lambda: SETUP)
    with pytest.raises((HostSilent, ZeroDivisionError)):
        await link.up()
    await asyncio.to_thread(wait_until, _nobody_keeps_a_relay)
    with pytest.raises(ZeroDivisionError):
        await link.ask(Do.SYNC, "h")


async def test_link_closed_ends_its_relay_its_threads_and_whoever_waits(linked: Linked) -> None:
    programs, link = linked("pass")
    await link.up()
    waiting = asyncio.create_task(link.ask(Do.SYNC, "h"))
    await asyncio.sleep(0)
    link.close()
    with pytest.raises(HostSilent):
        await waiting
    await asyncio.to_thread(programs.sessions[0].process.wait, 60)
    await asyncio.to_thread(wait_until, _nobody_keeps_a_relay)
    assert len(programs.sessions) == 1
    with pytest.raises(HostSilent, match="has let its relay go"):
        await link.up()


HANGING = """
import asyncio, time
from orchestrator.relay_link import RelayLink

async def wait_for_it():
    link = RelayLink(lambda: time.sleep(1000), lambda: None)
    try:
        async with asyncio.timeout(0.5):
            await link.up()
    except TimeoutError:
        print("still hanging", flush=True)
    link.close()

asyncio.run(wait_for_it())
"""


def test_controller_whose_ssh_hangs_can_leave() -> None:
    left = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, check=False)
    assert (left.stdout, left.returncode) == ("still hanging\n", 0), left.stderr
