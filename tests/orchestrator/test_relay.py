"""The relay as a process of its own, asked line by line, on a Ray cluster of real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from core.protocol import Call, Controller
from orchestrator.relay import HEAD_MISSES
from orchestrator.relayed import LINE_BYTES, Do, Lines, Setup, Wanted, line
from tests.conftest import Cluster, wait_until
from tests.orchestrator.near import ROOT, NearCluster, Session

pytestmark = pytest.mark.slow

# As long as an actor's start may take on a machine under load.
ANSWER_S = 120.0

# A relay in whose process something writes to stdout, as Ray does from Python and from C++.
NOISY = """
import os, sys
from orchestrator import relay
real = relay.connect

def connect(*where):
    print("noise", flush=True)
    os.write(1, b"noise\\n")
    real(*where)

relay.connect = connect
relay.main()
"""
IMPATIENT = "from orchestrator import relay; relay.SILENCE_S = 1.0; relay.main()"


class Asker:
    """Speaks with a relay, as no controller would: one line at a time, and sees every line that it says."""

    def __init__(self, near: NearCluster, program: str = "from orchestrator import relay; relay.main()") -> None:
        self.session = Session(sys.executable, "-c", program, env=os.environ | {"PYTHONPATH": str(ROOT)})
        self.near = near
        self._numbers = count(1)
        self._lines = Lines()
        self._said: list[dict[str, Any]] = []

    def begin(self, **fields: str) -> dict[str, Any]:
        """Joins the cluster, or what `fields` says instead."""
        near = self.near
        setup = Setup(
            address=near.address,
            token=near.token,
            hosts=tuple(near.hosts),
        )
        self.session.send(setup.model_copy(update=fields).model_dump_json().encode() + b"\n")
        return self.hear()

    def post(self, do: Do, host: str = "", text: str = "") -> int:
        number = next(self._numbers)
        self.session.send(json.dumps({"id": number, "do": do, "host": host, "text": text}).encode() + b"\n")
        return number

    def hear(self) -> dict[str, Any]:
        while not self._said:
            data = self.session.receive(1 << 16, ANSWER_S)
            assert data, f"the relay has ended: {self.session.stderr}"
            self._said += [json.loads(line) for line in self._lines.feed(data)]
        return self._said.pop(0)

    def ask(self, do: Do, host: str = "", text: str = "") -> tuple[str, str]:
        number = self.post(do, host, text)
        answer = self.hear()
        assert answer["id"] == number
        return answer["how"], answer["text"]

    def ensure(self, host: str) -> tuple[str, str]:
        (spec,) = [spec for spec in self.near.hosts if spec.name == host]
        options = self.near.actor_options(host)
        wanted = Wanted(raylet=self.near.revive(host), config=self.near.config(spec), options=options, renew=True)
        return self.ask(Do.ENSURE, host, wanted.model_dump_json())


def call(generation: int, epoch: int = 1, wait_s: float = 0) -> str:
    me = Controller(user="ann", machine="lab", pid=7)
    wanted = Call(ledger_id="hers", controller=me, epoch=epoch, generation=generation, wait_s=wait_s)
    return wanted.model_dump_json()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # nothing of ours is in the environment that a host's raylet starts in
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        cluster = Cluster(tmp_path_factory.mktemp("ray"))
        try:
            cluster.start("a")
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def near(cluster: Cluster, tmp_path: Path) -> Iterator[NearCluster]:
    cluster.free()
    near = NearCluster(cluster, tmp_path, "a")
    yield near
    near.end()


@pytest.fixture
def asker(near: NearCluster) -> Iterator[Asker]:
    asker = Asker(near)
    yield asker
    asker.session.end()


def test_relay_answers_every_request_in_lines_of_its_own(near: NearCluster) -> None:
    asker = Asker(near, NOISY)
    try:
        assert asker.begin() == {"id": 0, "how": "said", "text": ""}
        assert asker.session.stderr.count("noise\n") == 2
        assert asker.ask(Do.SYNC, "a", call(1)) == ("silent", "nobody has looked for its actor yet")
        assert asker.ensure("a") == ("said", "")
        assert asker.ask(Do.REPLACE, "a") == ("said", "gone")
        assert asker.ensure("a") == ("said", "")
        how, text = asker.ask(Do.SYNC, "a", call(2))
        assert (how, json.loads(text)["answer"]) == ("said", "other_spool")
        # a ledger owns it by now
        assert asker.ask(Do.REPLACE, "a") == ("said", "")
        assert asker.ask(Do.LOSS, "a") == ("said", "")
        assert asker.ask(Do.PING) == ("said", "")
        how, text = asker.ask(Do.SYNC, "a", "no call at all")
        assert how == "silent"
        assert "validation error" in text
        how, text = asker.ask(Do.ENSURE, "a", "{}")
        assert how == "broken"
        assert "ValidationError" in text
    finally:
        asker.session.end()


def test_relay_asked_for_something_slow_answers_what_comes_after_it(asker: Asker) -> None:
    asker.begin()
    asker.ensure("a")
    _, text = asker.ask(Do.SYNC, "a", call(1))
    spool = json.loads(text)["spool_id"]
    slow = json.loads(call(2, wait_s=30)) | {"spool_id": spool}
    first = asker.post(Do.SYNC, "a", json.dumps(slow))
    second = asker.post(Do.PING)
    assert asker.hear()["id"] == second
    # a newer call ends the wait of the older
    third = asker.post(Do.SYNC, "a", json.dumps(slow | {"generation": 3, "wait_s": 0.0}))
    assert {asker.hear()["id"], asker.hear()["id"]} == {first, third}


def test_actor_is_given_its_code_and_outlives_every_relay(cluster: Cluster, near: NearCluster) -> None:
    endings = {
        "its input ends": lambda session: session.close(),
        "SIGTERM": lambda session: session.process.send_signal(signal.SIGTERM),
        "SIGHUP": lambda session: session.process.send_signal(signal.SIGHUP),
        "SIGKILL": lambda session: session.process.kill(),
    }
    actors = set()
    for how, end in endings.items():
        asker = Asker(near)
        try:
            asker.begin()
            asker.ensure("a")
            actors.add(cluster.actor("a"))
            end(asker.session)
            wait_until(lambda asker=asker: asker.session.process.poll() is not None, 20, f"the relay's end: {how}")
        finally:
            asker.session.end()
    (actor,) = actors
    assert actor is not None
    assert f"PYTHONPATH={ROOT}" in Path(f"/proc/{actor}/environ").read_text().split("\0")
    assert "PYTHONPATH" not in Path(f"/proc/{cluster.raylet('a')}/environ").read_text()


def test_relay_has_actors_look_for_modules_nowhere_but_in_its_own_code(tmp_path: Path) -> None:
    """They look first in the directory that their driver is in."""
    setup = Setup(address="127.0.0.1:1", token="/none", hosts=())
    command = [sys.executable, "-m", "orchestrator.relay"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as relay:
        relay.stdin.write(line(setup))
        relay.stdin.flush()
        assert json.loads(relay.stdout.readline())["how"] == "silent"
        assert Path(f"/proc/{relay.pid}/cwd").readlink() == ROOT
        relay.kill()


def test_relay_that_nobody_speaks_with_ends(near: NearCluster) -> None:
    asker = Asker(near, IMPATIENT)
    try:
        asker.begin()
        wait_until(lambda: asker.session.process.poll() is not None, 20, "the end of a relay that nobody needs")
        assert asker.session.process.returncode == 0
    finally:
        asker.session.end()


def test_relay_whose_head_is_gone_ends() -> None:
    """The driver in it would wait for that head as long as the pool is patient, and answer pings meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        program = f"from orchestrator import relay; relay.HEAD_S = 0.05; relay._watch({address!r})"
        watching = Session(sys.executable, "-c", program, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            for _ in range(2 * HEAD_MISSES):
                head.accept()[0].close()
            assert watching.process.poll() is None
            head.close()
            assert watching.process.wait(60) == 1
        finally:
            watching.end()


def test_relay_given_no_request_ends_and_says_what_it_was(asker: Asker) -> None:
    asker.begin()
    asker.session.send(b'{"id": 1, "do": "dance"}\n')
    wait_until(lambda: asker.session.process.poll() is not None, 20, "the relay's end")
    assert "dance" in asker.session.stderr


def test_relay_given_a_line_without_end_ends(asker: Asker) -> None:
    asker.begin()
    asker.session.send(b"x" * (LINE_BYTES + 1))
    wait_until(lambda: asker.session.process.poll() is not None, 20, "the relay's end")
    assert "a line of more than" in asker.session.stderr


@pytest.mark.parametrize("wrong", ["token", "address"])
def test_relay_that_cannot_join_says_why(near: NearCluster, tmp_path: Path, wrong: str) -> None:
    """Ray ends a driver without the right token, or cannot find a head: either way nobody is let in."""
    token = tmp_path / "token"
    token.write_text("fedcba9876543210" * 4)
    token.chmod(0o600)
    asker = Asker(near)
    try:
        answer = asker.begin(**({"token": str(token)} if wrong == "token" else {"address": "127.0.0.1:9"}))
        assert answer["how"] == "silent"
        assert ("no Ray cluster answers at" if wrong == "token" else "nothing answers at") in answer["text"]
    finally:
        asker.session.end()


def test_two_relays_at_once_do_no_harm(cluster: Cluster, near: NearCluster) -> None:
    """The older one, of a link that was cut, goes on late with what it was given before."""
    older, newer = Asker(near), Asker(near)
    try:
        older.begin()
        older.ensure("a")
        first = cluster.actor("a")
        assert first is not None
        newer.begin()
        newer.ensure("a")
        assert cluster.actor("a") == first
        spool = json.loads(newer.ask(Do.SYNC, "a", call(5))[1])["spool_id"]
        # a call that was under way
        late = json.loads(older.ask(Do.SYNC, "a", call(4))[1])
        assert late["answer"] == "stale"
        # the actor dies, and both are told to give it up, the older one after another has taken its name
        os.kill(first, signal.SIGKILL)
        newer.ask(Do.DISCARD, "a")
        newer.ensure("a")
        wait_until(lambda: cluster.actor("a") not in {None, first}, what="the next actor")
        second = cluster.actor("a")
        assert older.ask(Do.DISCARD, "a") == ("said", "")
        assert json.loads(newer.ask(Do.SYNC, "a", call(6))[1])["spool_id"] == spool
        older.ensure("a")
        assert cluster.actor("a") == second
    finally:
        older.session.end()
        newer.session.end()
