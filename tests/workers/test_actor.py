"""The Ray actor: a selftest visit through `sync`, a killed runner, a killed actor and the one after it."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.events import Entry, Environment, RunEnded, RunnerBegan, VisitEnded
from core.failures import Kind
from core.job import SelftestJob
from core.protocol import Care, Condition, Controller, Mode, Observation, Verb
from core.visit import Slot, Visit
from orchestrator.link import Adopt, Ingest, Link
from tests.processes import end_session
from workers.host.config import HostConfig
from workers.host.process import Identity, is_alive

pytestmark = pytest.mark.slow

ME = Controller(user="ann", machine="desk", pid=os.getpid())


# Starts an embedded Ray and answers every line `VERB ACTOR TEXT`: `make` one of that config, `sync` and `care` call it.
# A process of its own: Ray settles on how it authenticates when it is imported, which this one may have done long ago.
DRIVER = """
import sys
import ray
from workers.actor import actor_class

ray.init(address="local", num_cpus=2, include_dashboard=False, labels={"hillclimb-host": "h"}, log_to_driver=False)
actors = {}
for line in sys.stdin:
    verb, name, text = line[:-1].split(" ", 2)
    if verb == "make":
        options = {"name": name, "lifetime": "detached", "label_selector": {"hillclimb-host": "h"}}
        actors[name] = actor_class().options(**options).remote(text)
        answer = ray.__version__
    elif verb == "kill":
        answer = ray.kill(actors[name])
    else:
        answer = ray.get(getattr(actors[name], verb).remote(text), timeout=60)
    print(">", answer, flush=True)
"""


class Driver:
    """A driver of an embedded Ray with a token of its own."""

    def __init__(self, root: Path) -> None:
        token = root / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | auth,
            start_new_session=True,
        )

    def ask(self, verb: str, actor: str, text: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {actor} {text}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("> "):
                return line.removeprefix("> ").rstrip("\n")
        raise AssertionError(f"the driver ended with {self.process.wait()}")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    try:
        yield made
        made.process.communicate(timeout=60)
    finally:
        end_session(made.process)


class Client:
    """Calls an actor as a controller would and keeps what it ingests."""

    def __init__(self, driver: Driver, state: Path, epoch: int) -> None:
        self._driver = driver
        self._name = f"h-{epoch}"
        self._link = Link("ledger", ME, epoch, None, 0, time.monotonic())
        self.entries: list[Entry] = []
        self.ray = self.ask("make", HostConfig(host="h", state=str(state), grace_s=0.5).model_dump_json())

    def ask(self, verb: str, text: str = "") -> str:
        return self._driver.ask(verb, self._name, text)

    def sync(self, *visits: Visit) -> None:
        call = self._link.next_call(visits, Mode.RUN, time.monotonic())
        reply = Observation.model_validate_json(self.ask("sync", call.model_dump_json()))
        match self._link.on_reply(reply, time.monotonic()):
            case Adopt(spool_id=spool_id):
                self._link.adopted(spool_id, 0)
            case Ingest(entries=entries):
                self.entries += entries
                if entries:
                    self._link.committed(reply.spool_id, entries[-1].seq)

    def until(self, kind: type, *visits: Visit) -> list:
        deadline = time.monotonic() + 60
        while not (found := [e.body for e in self.entries if isinstance(e.body, kind)]):
            assert time.monotonic() < deadline, [e.body for e in self.entries]
            self.sync(*visits)
        return found


def visit(number: int, *jobs: SelftestJob) -> Visit:
    slots = tuple(Slot(slot=slot, job=job) for slot, job in enumerate(jobs))
    return Visit(visit=number, slots=slots, iters=2, warmup=1)


def test_actor_runs_visits_classifies_deaths_and_is_followed(driver: Driver, tmp_path: Path) -> None:
    client = Client(driver, tmp_path, epoch=1)
    dying = SelftestJob(end="signal", signal=signal.SIGKILL, phase="check")
    (ended,) = client.until(VisitEnded, visit(1, SelftestJob(), dying))
    assert ended.state == "finished"
    runs = {entry.body.slot: entry.body for entry in client.entries if isinstance(entry.body, RunEnded)}
    assert (runs[0].outcome, runs[1].kind, runs[1].exit_status) == ("ok", Kind.KILLED, "signal 9 (SIGKILL)")
    assert any(isinstance(entry.body, Environment) for entry in client.entries)

    client.entries.clear()
    hanging = visit(2, SelftestJob(end="hang", phase="measure"))
    (began,) = client.until(RunnerBegan, hanging)
    runner = Identity(began.pid, began.start_time)
    environ = Path(f"/proc/{runner.pid}/environ").read_bytes().split(b"\0")
    assert not [pair for pair in environ if pair.startswith((b"RAY_", b"OMP_NUM_THREADS", b"CUDA_VISIBLE"))]
    asked = Care(verb=Verb.CHECK, user="bob", machine="laptop").model_dump_json()
    seen = Condition.model_validate_json(client.ask("care", asked))
    assert [alive.visit for alive in seen.alive] == [2]
    assert seen.held is not None
    assert (seen.held.user, seen.facts["ray"]) == ("ann", client.ray)
    client.ask("kill")
    deadline = time.monotonic() + 10
    while is_alive(runner):
        assert time.monotonic() < deadline, "the runner outlived its actor"

    following = Client(driver, tmp_path, epoch=2)
    *_, ended = following.until(VisitEnded, hanging)
    last = [entry.body for entry in following.entries][-1]
    assert isinstance(last, VisitEnded)
    assert (last.state, last.kind) == ("failed", Kind.WORKER_LOST)
    assert json.loads((tmp_path / "ledger" / "started").read_text())["visit"] == 2
    following.ask("kill")
