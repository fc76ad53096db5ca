"""What Ray says of a host's end, on real raylets that really end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cluster, wait_until

pytestmark = pytest.mark.slow

# Attaches as a controller does and answers every line: a host's name with what became of it; `preempt NAME` has its
# node drained as a provider's notice would; `make ORPHAN_S NAME` finds or makes its actor, whose id is the answer;
# `sync NAME` makes a ledger own it.
ASKED = """
import asyncio, sys, time
from infra.attach import attach
from infra.pool import read_pool

def attached():
    ray.shutdown()
    return attach(read_pool(sys.argv[1]))

hosts = attach(read_pool(sys.argv[1]))

import ray
from ray.core.generated import autoscaler_pb2
from core.protocol import Call, Controller
from orchestrator.fleet import Fleet
from workers.host.config import HostConfig

ME = Controller(user="ann", machine="lab", pid=7)
CALL = Call(ledger_id="hers", controller=ME, epoch=1, generation=1, wait_s=0).model_dump_json()
print(">", *sorted(h.name for h in hosts), flush=True)
for line in sys.stdin:
    verb, _, name = line.strip().rpartition(" ")
    if verb.startswith("make"):
        state, orphan_s = sys.argv[2] + name, float(verb.removeprefix("make "))
        fleet = Fleet(hosts, {name: HostConfig(host=name, state=state, orphan_s=orphan_s)})
        asyncio.run(fleet.ensure(name))
        print(">", ray.get_actor("host:" + name)._actor_id.hex(), flush=True)
    elif verb == "sync":
        print(">", "other_spool" in asyncio.run(fleet.sync(name, CALL)), flush=True)
    elif verb:
        (node,) = [n for n in ray.nodes() if n["Labels"].get("hillclimb-host") == name]
        client = ray._private.worker.global_worker.gcs_client
        reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        done = client.drain_node(bytes.fromhex(node["NodeID"]).hex(), reason, "spot", int(time.time() * 1000) + 1000)
        print(">", done, flush=True)
    elif name == "hosts":
        print(">", *(h.name for h in attached()), flush=True)
    else:
        loss = asyncio.run(Fleet(hosts, {}).loss(name))
        print(">", loss.kind.value + " " + loss.reason if loss else None, flush=True)
"""


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[Cluster, subprocess.Popen[str]]]:
    cluster = Cluster(tmp_path / "ray")
    try:
        cluster.start("a", "b", "c")
        process = subprocess.Popen(
            [sys.executable, "-c", ASKED, str(cluster.pool), str(tmp_path / "state-of-")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=cluster.environment,
        )
        with process:
            yield cluster, process
            process.kill()
    finally:
        cluster.end()


def _ask(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: subprocess.Popen[str]) -> str:
    """The next line that is one: Ray's driver prints things of its own between them."""
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("> "):
            return line[2:].strip()
    raise AssertionError("the controller's process has ended")


def _replaces_an_actor_that_was_made_for_another_pool_file(process: subprocess.Popen[str]) -> None:
    """Unless a ledger owns it. A part of the test below: the cluster is what takes time."""
    first = _ask(process, "make 900 a")
    assert _ask(process, "make 900 a") == first
    second = _ask(process, "make 60 a")
    assert second != first
    assert _ask(process, "sync a") == "True"
    assert _ask(process, "make 900 a") == second


def test_fleet_knows_a_killed_raylet_a_stopped_one_and_a_preempted_node(
    asked: tuple[Cluster, subprocess.Popen[str]],
) -> None:
    cluster, process = asked
    assert _answer(process).split() == ["a", "b", "c"]
    assert [_ask(process, name) for name in "abc"] == ["None"] * 3
    _replaces_an_actor_that_was_made_for_another_pool_file(process)
    os.kill(cluster.raylet("a"), signal.SIGKILL)
    os.kill(cluster.raylet("b"), signal.SIGTERM)
    assert _ask(process, "preempt c").startswith("(True")
    for host, says in (("a", "raylet_lost its Ray node is dead"), ("b", "raylet_lost"), ("c", "preempted")):
        wait_until(lambda host=host, says=says: _ask(process, host).startswith(says), 90, f"the end of {host}")
    # they may come back: who attaches now has them too
    assert _ask(process, "hosts").split() == ["a", "b", "c"]
