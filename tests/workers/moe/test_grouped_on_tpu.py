"""The kernels as libtpu compiles them for a v5p, on a machine without one: they fit, and do no more than they must.

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
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from core.job import MoeBlockJob
from workers.moe.grouped import backend_of
from workers.moe.grouped.matmul import matmul

device = topologies.get_topology_desc("v5p:2x2x1", "tpu").devices[0]
on_device = SingleDeviceSharding(device)

def facts(backend, vjp, dtype, groups, rows, k, n):
    job = MoeBlockJob(tokens=rows, hidden=k, mlp_dim=n, experts=groups, topk=1, dtype=dtype, backend=backend,
                      matmul_vjp=vjp, bench_pass="forward_backward")
    chosen = backend_of(job, device.platform, device.device_kind)
    def run(a, b, dout, group_sizes):
        out, derivative = jax.vjp(lambda a, b: matmul(chosen, a, b, group_sizes), a, b)
        return out, *derivative(dout)
    shapes = [((rows, k), dtype), ((groups, k, n), dtype), ((rows, n), dtype), ((groups,), "int32")]
    given = [jax.ShapeDtypeStruct(shape, kind, sharding=on_device) for shape, kind in shapes]
    compiled = jax.jit(run).trace(*given).lower(lowering_platforms=("tpu",)).compile()
    return {"flops": compiled.cost_analysis()["flops"], "kernels": compiled.as_text().count("tpu_custom_call")}

print(json.dumps([facts(*case) for case in json.loads(sys.argv[1])]))
"""


def facts(*cases: tuple[str, str, str, int, int, int, int]) -> list[dict[str, float]]:
    """Of the value and both derivatives, for each case (backend, matmul_vjp, dtype, groups, rows, k, n)."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, json.dumps(cases)], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "groups", "rows", "k", "n"),
    [
        ("bfloat16", 64, 65536, 2048, 2816),
        ("bfloat16", 64, 65536, 1408, 2048),
        ("bfloat16", 128, 65536, 2048, 1536),
        ("float32", 5, 1000, 200, 100),
    ],
)
def test_gmm_default_tiles_fit_a_v5p(dtype, groups, rows, k, n):
    (found,) = facts(("gmm", "custom", dtype, groups, rows, k, n))
    assert found["kernels"] == 3


def test_ragged_dot_custom_derivative_computes_no_dense_expansion():
    groups, rows, k, n = 16, 2048, 256, 512
    custom, autodiff = facts(*(("ragged_dot", vjp, "bfloat16", groups, rows, k, n) for vjp in ("custom", "autodiff")))
    product = 2 * rows * k * n
    # the value, and one product for each derivative
    assert custom["flops"] == pytest.approx(3 * product, rel=0.05)
    # the value, one product, and one for every group
    assert autodiff["flops"] == pytest.approx((2 + groups) * product, rel=0.05)
