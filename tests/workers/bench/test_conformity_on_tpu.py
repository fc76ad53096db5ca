"""Whole steps as libtpu compiles them for four chips of a v5p, on a machine without one: they do what their jobs say.

A process of its own compiles: libtpu is loaded once in the life of a process, and not into this one.
"""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

COMPILE = """
import json, sys
import jax
from jax.experimental import topologies

from core.job import MoeBlockJob
from workers.bench.census import census
from workers.bench.conformity import SCOPES, nonconformities
from workers.bench.inputs import draw
from workers.moe import step
from workers.moe.buffer import buffer_rows
from workers.moe.layout import Layout

devices = list(topologies.get_topology_desc("v5p:2x2x1", "tpu").devices)

def facts(fields):
    job = MoeBlockJob(tokens=512, hidden=256, mlp_dim=128, experts=8, topk=2, **fields).canonicalised()
    layout, drawn = Layout.of(job, devices), draw(job)
    program = step.program(layout, buffer_rows(job, drawn.routing.ids, len(layout.devices)))
    given = jax.tree.map(
        lambda array, at: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=at),
        drawn.arguments, layout.shardings(drawn.arguments),
    )
    found = census(jax.jit(program.step).trace(given).lower(lowering_platforms=("tpu",)).compile(), SCOPES)
    wrong = list(nonconformities(job, len(layout.devices), found, "tpu"))
    return {"collectives": dict(found.collectives), "int8": dict(found.int8_dots), "wrong": wrong}

print(json.dumps([facts(fields) for fields in json.loads(sys.argv[1])]))
"""


def test_step_for_a_v5p_conforms_to_its_job():
    jobs = [
        {"parallel_mode": "ep", "backend": "gmm", "bench_pass": "forward_backward", "impl": "fused_w13"},
        {"parallel_mode": "ep_a2a", "backend": "gmm", "impl": "preweight", "null_route_frac": 0.3},
        {"parallel_mode": "ep_ring", "backend": "ragged_dot", "quant_mode": "int8_routed_prequant"},
    ]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(jobs)], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    ep, a2a, ring = json.loads(run.stdout.splitlines()[-1])
    assert ep["wrong"] == a2a["wrong"] == ring["wrong"] == []
    assert ep["collectives"] == {"all-reduce": 2}
    # rows, their weights before w2, and the way back
    assert a2a["collectives"]["ragged-all-to-all"] == 3
    assert ring["int8"] == {"up": 2, "down": 1}
