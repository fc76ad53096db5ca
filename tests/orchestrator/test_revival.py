"""When a host's raylet is looked at, and what its looks tell."""

import asyncio
import threading

import pytest

from core.failures import Kind
from infra.pool import PoolError
from infra.ssh import SshError
from orchestrator import revival
from orchestrator.revival import EVERY_S, Revival
from orchestrator.transport import HostSilent


class Host:
    """Answers a look with the next of `answers`, the last again and again. A look waits while `gate` is shut."""

    def __init__(self, *answers: str | PoolError) -> None:
        self._answers = answers
        self.looks = 0
        self.now = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.revival = Revival("h", self._revive, lambda: self.now)

    def _revive(self) -> str:
        answer = self._answers[min(self.looks, len(self._answers) - 1)]
        self.looks += 1
        assert self.gate.wait(60)
        if isinstance(answer, PoolError):
            raise answer
        return answer

    async def look_again(self) -> str:
        self.now += EVERY_S
        return await self.revival.raylet()


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "WAIT_S", 0.2)


async def test_raylet_asked_for_often_is_looked_at_once_in_a_while() -> None:
    host = Host("one")
    assert [await host.revival.raylet() for _ in range(5)] == ["one"] * 5
    assert host.looks == 1
    await host.look_again()
    assert host.looks == 2


async def test_raylet_is_looked_at_by_one_at_a_time() -> None:
    host = Host("one")
    host.gate.clear()
    waiting = [asyncio.create_task(host.revival.raylet()) for _ in range(5)]
    await asyncio.sleep(0)
    host.gate.set()
    assert await asyncio.gather(*waiting) == ["one"] * 5
    assert host.looks == 1


async def test_raylet_known_from_before_is_believed_while_a_look_hangs() -> None:
    host = Host("one", "two")
    await host.revival.raylet()
    host.gate.clear()
    assert [await host.look_again() for _ in range(3)] == ["one"] * 3
    assert host.looks == 2
    host.gate.set()
    assert await host.revival.raylet() == "two"


async def test_raylet_in_doubt_is_not_believed_without_another_look() -> None:
    host = Host("one", "one", "two")
    await host.revival.raylet()
    host.gate.clear()
    assert await host.look_again() == "one"
    # the look that is under way may have seen it before it ended
    host.revival.doubt()
    waiting = asyncio.create_task(host.revival.raylet())
    await asyncio.wait({waiting}, timeout=2 * revival.WAIT_S)
    assert not waiting.done()
    host.gate.set()
    assert await waiting == "two"
    assert host.looks == 3


async def test_raylet_in_doubt_that_nobody_can_look_at_is_the_best_that_is_known() -> None:
    host = Host("one", UNREACHABLE)
    await host.revival.raylet()
    host.revival.doubt()
    assert await host.revival.raylet() == "one"
    assert host.looks == 2


async def test_raylet_never_seen_is_waited_for() -> None:
    host = Host("one")
    host.gate.clear()
    waiting = asyncio.create_task(host.revival.raylet())
    await asyncio.wait({waiting}, timeout=2 * revival.WAIT_S)
    assert not waiting.done()
    host.gate.set()
    assert await waiting == "one"


UNREACHABLE = SshError("h: no answer within 10 s")
NOT_STARTED = PoolError("h: Ray does not start: no space left on device")
KNOWN: list[tuple[str | PoolError, str, Kind | None, str]] = [
    (UNREACHABLE, "one", Kind.SSH_UNREACHABLE, "no answer within 10 s"),
    (NOT_STARTED, "one", Kind.RAYLET_LOST, "no space left"),
    ("two", "two", Kind.RAYLET_LOST, "another was started"),
    ("one", "one", None, ""),
]


@pytest.mark.parametrize(("seen", "raylet", "kind", "reason"), KNOWN)
async def test_look_tells_what_became_of_the_host_until_it_answers(
    seen: str | PoolError, raylet: str, kind: Kind | None, reason: str
) -> None:
    host = Host("one", seen)
    await host.revival.raylet()
    assert host.revival.loss is None
    assert await host.look_again() == raylet
    loss = host.revival.loss
    assert (loss and loss.kind) == kind
    assert reason in (loss.reason if loss else "")
    host.revival.on_answer()
    assert host.revival.loss is None


async def test_raylet_that_is_another_stays_the_reason_until_the_host_answers() -> None:
    host = Host("one", UNREACHABLE, "two", "two")
    await host.revival.raylet()
    for kind in (Kind.SSH_UNREACHABLE, Kind.RAYLET_LOST, Kind.RAYLET_LOST):
        await host.look_again()
        assert host.revival.loss is not None
        assert host.revival.loss.kind is kind


@pytest.mark.parametrize("error", [UNREACHABLE, NOT_STARTED])
async def test_host_whose_raylet_was_never_seen_is_silent(error: PoolError) -> None:
    host = Host(error, "one")
    with pytest.raises(HostSilent, match=str(error)):
        await host.revival.raylet()
    assert await host.look_again() == "one"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_look_with_a_bug_is_not_taken_for_a_silence() -> None:
    def revive() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Revival("h", revive).raylet()
