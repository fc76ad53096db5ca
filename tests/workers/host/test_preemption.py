"""What counts as the metadata server's word, asked of real servers: only Google's own literal TRUE."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.events import Probed, RunnerBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from tests.workers.host.metadata_server import FALSE, GOOGLE, TRUE, Server, reply
from tests.workers.host.test_service import Client, visit
from workers.host import preemption
from workers.host.config import HostConfig
from workers.host.preemption import Answer, ask, until_preempted
from workers.host.service import HostService

Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers; the last one is where the metadata server is looked for."""
    with ExitStack() as stack:

        def start(*answers: bytes) -> Server:
            server = Server(*answers)
            stack.callback(server.close)
            monkeypatch.setenv("GCE_METADATA_HOST", server.address)
            return server

        yield start


def test_ask_of_a_preempted_machine_says_so(serve: Serve) -> None:
    server = serve(TRUE)
    assert ask("e1/=") == Answer(is_preempted=True, etag="e2")
    (request,) = server.requests
    assert request.startswith("GET /computeMetadata/v1/instance/preempted?wait_for_change=true&last_etag=e1%2F%3D&")
    assert "\r\nMetadata-Flavor: Google\r\n" in request


def test_ask_of_a_machine_that_stays_says_so_and_what_to_wait_with(serve: Serve) -> None:
    serve(FALSE)
    assert ask("0") == Answer(is_preempted=False, etag="e1")


@pytest.mark.parametrize("word", ["true", "True", "TRUE\n", " TRUE", "TRUE TRUE", "TRUEE", '"TRUE"', "1", "", "FALSE"])
def test_ask_that_hears_another_word_than_true_takes_it_for_no(serve: Serve, word: str) -> None:
    serve(reply(word, GOOGLE))
    assert ask("0") == Answer(is_preempted=False, etag="0")


@pytest.mark.parametrize(
    "wrong",
    [
        reply("TRUE"),
        reply("TRUE", "Metadata-Flavor: google"),
        reply("TRUE", "Metadata-Flavor: Amazon"),
        reply("TRUE", GOOGLE, GOOGLE),
        reply("TRUE", GOOGLE, status="404 Not Found"),
        reply("TRUE", GOOGLE, status="503 Service Unavailable"),
        reply("TRUE", GOOGLE, status="201 Created"),
        reply("TRUE", GOOGLE, length=40),
        reply("TRUE", GOOGLE, "Transfer-Encoding: chunked"),
        reply("<html><body>TRUE: sign in to go on</body></html>", "Content-Type: text/html"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"TRUE",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + TRUE,
        b"\0" * 100_000,
        b"",
    ],
)
def test_ask_that_hears_something_else_hears_nothing(serve: Serve, wrong: bytes) -> None:
    server = serve(wrong)
    assert ask("0") is None
    assert len(server.requests) == 1


def test_ask_follows_no_redirect(serve: Serve) -> None:
    there = serve(TRUE)
    serve(reply("TRUE", GOOGLE, f"Location: http://{there.address}{preemption.PATH}", status="302 Found"))
    assert ask("0") is None
    assert there.requests == []


def test_ask_goes_past_every_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(TRUE)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy.address}")
    server = serve(FALSE)
    assert ask("0") == Answer(is_preempted=False, etag="e1")
    assert (len(server.requests), proxy.requests) == (1, [])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", "", "a" * 70, "no such host.invalid", "[::1"])
def test_ask_where_nothing_can_answer_hears_nothing(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("GCE_METADATA_HOST", address)
    assert ask("0") is None


def test_ask_of_a_server_that_never_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "POLL_S", 0.2)
    monkeypatch.setattr(preemption, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        assert ask("0") is None


async def test_watch_waits_for_the_next_answer_and_survives_wrong_ones(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("PAUSE_S", "RETRY_S"):
        monkeypatch.setattr(preemption, pause, 0.01)
    server = serve(FALSE, FALSE, b"", reply("TRUE"), FALSE, TRUE)
    async with asyncio.timeout(30):
        await until_preempted()
    asked = [request.partition("last_etag=")[2].partition("&")[0] for request in server.requests]
    assert asked == ["0", "e1", "e1", "0", "0", "e1"]


@pytest.fixture
def spot(tmp_path: Path) -> HostService:
    return HostService(HostConfig(host="h", state=str(tmp_path), grace_s=0.5, preemption="gce"))


async def test_service_on_a_machine_that_is_taken_away_says_so_finishes_and_starts_nothing(
    serve: Serve, spot: HostService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preemption, "PAUSE_S", 0.01)
    server = serve(FALSE)
    running = visit(5, SelftestJob(sleep_s=1.0))
    try:
        client = Client(spot)
        await client.until(RunnerBegan, running)
        server.answers[:] = [TRUE]
        async with asyncio.timeout(30):
            while not (seen := await client.sync(running, visit(6), wait_s=0.2)).draining:
                pass
        assert seen.draining == "its provider takes the machine away: its blocks are measured elsewhere"
        assert [alive.visit for alive in seen.alive] == [5]
        bodies = await client.until(VisitEnded, running, visit(6))
        assert bodies[-1] == VisitEnded(state="finished")
        assert Kind.PREEMPTED in [body.kind for body in bodies if isinstance(body, Probed)]
        assert (await client.sync(running, visit(6), wait_s=0.5)).alive == ()
        assert {entry.visit for entry in client.entries} == {5, None}
    finally:
        await spot.close()


async def test_service_of_a_pool_that_does_not_ask_for_it_asks_no_metadata_server(serve: Serve, tmp_path: Path) -> None:
    server = serve(TRUE)
    host = HostService(HostConfig(host="h", state=str(tmp_path), grace_s=0.5))
    try:
        client = Client(host)
        assert (await client.until(VisitEnded, visit(5)))[-1] == VisitEnded(state="finished")
        assert server.requests == []
    finally:
        await host.close()
