"""A host whose actor is of another version of hillclimb, made from that version's own code."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.protocol import PROTOCOL
from tests.cluster import Cluster
from tests.faults.trial import Trial
from tests.processes import wait_until

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
OTHER = 1000

# A controller of the other version. It makes actors on both hosts; a visit of its ledger runs on `one`, and `two` has
# nothing to do. `look` says which visits run on `one`; `end` cancels it, hears of its end and lets the host go.
CONTROLLER = """
import asyncio, sys, time
from infra.attach import attach
from infra.pool import read_pool

hosts = attach(read_pool(sys.argv[1]))

from core.job import SelftestJob
from core.protocol import PROTOCOL, Controller, Mode, Observation
from core.visit import Slot, Visit
from orchestrator.fleet import Fleet
from orchestrator.link import Adopt, Ingest, Link
from workers.host.config import HostConfig

environment = {"runtime_env": {"env_vars": {"PYTHONPATH": sys.argv[2]}}}
configs = {host.name: HostConfig(host=host.name, state=sys.argv[3] + "/" + host.name) for host in hosts}
fleet = Fleet(hosts, configs, {host.name: environment for host in hosts})
link = Link("hers", Controller(user="ann", machine="lab", pid=7), 1, None, 0, time.monotonic())
visit = Visit(visit=1, slots=(Slot(slot=0, job=SelftestJob(sleep_s=600.0)),), iters=1, warmup=0)

async def call(desired, mode=Mode.RUN):
    text = link.next_call(desired, mode, time.monotonic(), 0.2).model_dump_json()
    reply = Observation.model_validate_json(await fleet.sync("one", text))
    assert reply.protocol == PROTOCOL, reply
    match link.on_reply(reply, time.monotonic()):
        case Adopt(spool_id=spool_id):
            link.adopted(spool_id, 0)
        case Ingest(entries=entries) if entries:
            link.committed(reply.spool_id, entries[-1].seq)
    return reply

async def begin():
    await fleet.ensure("one")
    await fleet.ensure("two")
    while not (await call((visit,))).alive:
        pass

async def end():
    while (reply := await call((), Mode.DRAIN)).alive or reply.entries or not reply.spool_id:
        pass

async def serve():
    await begin()
    print(">", "speaks", PROTOCOL, flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while verb := (await lines.readline()).decode().strip():
        if verb == "end":
            await end()
            print("> let go", flush=True)
        else:
            print(">", *(alive.visit for alive in (await call((visit,))).alive), flush=True)

asyncio.run(serve())
"""


class Other:
    """Asks the controller of the other version, and waits for its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, verb: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(verb + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the controller of the other version has ended")


@pytest.fixture
def other(cluster: Cluster, tmp_path: Path) -> Iterator[Other]:
    """At work."""
    cluster.free()
    tree = tmp_path / "other version"
    for room in ("core", "workers", "infra", "orchestrator"):
        shutil.copytree(REPOSITORY / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    protocol = tree / "core" / "protocol.py"
    changed, times = re.subn(rf"^PROTOCOL = {PROTOCOL}$", f"PROTOCOL = {OTHER}", protocol.read_text(), flags=re.M)
    assert times == 1
    protocol.write_text(changed)
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, str(cluster.pool), str(tree), str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tree,
        env=cluster.environment | {"PYTHONPATH": str(tree)},
    )
    with process:
        try:
            working = Other(process)
            assert working.answer() == f"speaks {OTHER}"
            yield working
        finally:
            process.kill()


def test_actor_of_another_version_is_replaced_at_once_where_it_is_free_and_left_to_its_visit_where_it_is_not(
    cluster: Cluster,
    other: Other,
    trial: Callable[..., Trial],
    record_property: Callable[[str, object], None],
) -> None:
    needed, free = cluster.actor("one"), cluster.actor("two")
    ours = trial(blocks=200, sleep_s=0.01)
    driver = ours.start()
    ours.until("SELECT 1 FROM visit WHERE host = 'two' AND state = 'finished'")
    assert cluster.actor("two") not in {free, None}
    told = f"one is unknown: its actor speaks protocol {OTHER}, this hillclimb {PROTOCOL}: it works for somebody else"
    wait_until(lambda: told in ours.said.replace("\n", " "), 90, "the reason")
    assert other.ask("look") == "1"
    assert cluster.actor("one") == needed
    assert ours.rows("SELECT count(*) FROM visit WHERE host = 'one'") == [(0,)]
    began = time.monotonic()
    assert other.ask("end") == "let go"
    ours.until("SELECT 1 FROM visit WHERE host = 'one' AND state = 'finished'")
    record_property("taken_after_release_s", round(time.monotonic() - began, 2))
    assert cluster.actor("one") not in {needed, None}
    assert ours.say("cancel", "trial").returncode == 0
    assert driver.wait(240) == 0, ours.said
    assert {state for _, _, state, _ in ours.visits()} <= {"finished", "cancelled"}
