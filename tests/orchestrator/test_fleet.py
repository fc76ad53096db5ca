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

# Attaches as a controller does and answers every line: a host's name with what became of it, `preempt NAME` by having
# its node drained as a provider's notice would.
ASKED = """
import asyncio, sys, time
from infra.cluster import attach
from infra.pool import read_pool

def attached():
    ray.shutdown()
    return attach(read_pool(sys.argv[1]))

hosts = attach(read_pool(sys.argv[1]))

import ray
from ray.core.generated import autoscaler_pb2
from orchestrator.fleet import Fleet

print(">", *sorted(h.name for h in hosts), flush=True)
for line in sys.stdin:
    verb, _, name = line.strip().rpartition(" ")
    if verb:
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
            [sys.executable, "-c", ASKED, str(cluster.pool)],
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


def test_fleet_knows_a_killed_raylet_a_stopped_one_and_a_preempted_node(
    asked: tuple[Cluster, subprocess.Popen[str]],
) -> None:
    cluster, process = asked
    assert _answer(process).split() == ["a", "b", "c"]
    assert [_ask(process, name) for name in "abc"] == ["None"] * 3
    os.kill(cluster.raylet("a"), signal.SIGKILL)
    os.kill(cluster.raylet("b"), signal.SIGTERM)
    assert _ask(process, "preempt c").startswith("(True")
    for host, says in (("a", "raylet_lost its Ray node is dead"), ("b", "raylet_lost"), ("c", "preempted")):
        wait_until(lambda host=host, says=says: _ask(process, host).startswith(says), 90, f"the end of {host}")
    # they may come back: who attaches now has them too
    assert _ask(process, "hosts").split() == ["a", "b", "c"]
