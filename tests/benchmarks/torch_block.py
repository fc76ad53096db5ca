"""The MoE block on this CPU: `blocked` and `ragged_dot` against the Qwen3-MoE block of transformers in torch.

    pip install -e '.[bench]'
    python tests/benchmarks/torch_block.py [--rounds 10] [--shapes 1,2,3] [--passes forward,forward_backward]
                                           [--arms blocked,ragged_dot]

float32, fused_w13, the same x, weights, routing and number of threads. forward_backward is mean(y^2) and its gradient
with respect to x and every weight, routing fixed. Every output is compared before anything is timed. In each round all
arms are timed one after the other, in turning order; the ratio is torch's time over ours, above 1 where ours is faster,
with the 95 % interval of the paired log-ratios. torch runs twice: the loop over experts, and `grouped_mm`.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from core.analysis.estimate import estimate
from core.job import MoeBlockJob
from workers.bench.inputs import draw
from workers.bench.placement import place
from workers.moe.buffer import buffer_rows
from workers.moe.layout import Layout
from workers.moe.step import program

# tokens, hidden, mlp_dim, experts, topk
SHAPES = ((1024, 512, 768, 8, 2), (2048, 512, 384, 32, 4), (4096, 256, 512, 64, 8))
PASSES = ("forward", "forward_backward")
OURS = ("blocked", "ragged_dot")
THEIRS = ("eager", "grouped_mm")
TOLERANCE = 1e-5
# An arm is called for so long in a round, once at least; between arms, idle threads of the last one come to rest.
BUDGET_S, REST_S = 0.5, 0.3

Outputs = dict[str, np.ndarray]
Arm = Callable[[], Any]


def job_of(shape: tuple[int, ...], bench_pass: str, backend: str) -> MoeBlockJob:
    fields = dict(zip(("tokens", "hidden", "mlp_dim", "experts", "topk"), shape, strict=True))
    return MoeBlockJob(dtype="float32", impl="fused_w13", bench_pass=bench_pass, backend=backend, **fields)


def ours(job: MoeBlockJob) -> tuple[Arm, Callable[[], Outputs]]:
    """The compiled step on placed arguments, and its outputs by name."""
    layout, drawn = Layout.of(job, jax.devices()), draw(job)
    step = program(layout, buffer_rows(job, drawn.routing.ids, shards=1)).step
    placed = place(drawn.arguments, layout)
    compiled = jax.jit(step).lower(placed).compile()
    return (
        lambda: jax.block_until_ready(compiled(placed)),
        lambda: {name: np.asarray(array) for name, array in compiled(placed).items()},
    )


def theirs(job: MoeBlockJob, implementation: str) -> tuple[Arm, Callable[[], Outputs]]:
    """The same block in torch. Its matrices are stored transposed, as transformers stores them."""
    drawn = draw(job).arguments
    config = Qwen3MoeConfig(
        hidden_size=job.hidden,
        moe_intermediate_size=job.mlp_dim,
        num_experts=job.experts,
        num_experts_per_tok=job.topk,
        experts_implementation=implementation,
    )
    experts = Qwen3MoeExperts(config)
    parameters = {"gate_up_proj": drawn["weights"]["w13"], "down_proj": drawn["weights"]["w2"]}
    experts.load_state_dict({k: torch.tensor(w).transpose(1, 2).contiguous() for k, w in parameters.items()})
    x = torch.tensor(drawn["x"], requires_grad=True)
    ids, weights = torch.tensor(drawn["ids"], dtype=torch.int64), torch.tensor(drawn["router_weights"])

    if job.bench_pass == "forward":

        def run() -> dict[str, torch.Tensor]:
            with torch.no_grad():
                return {"y": experts(x, ids, weights)}

    else:

        def run() -> dict[str, torch.Tensor]:
            loss = experts(x, ids, weights).square().mean()
            dx, dw13, dw2 = torch.autograd.grad(loss, (x, experts.gate_up_proj, experts.down_proj))
            return {"loss": loss, "dx": dx, "dw13": dw13.transpose(1, 2), "dw2": dw2.transpose(1, 2)}

    return run, lambda: {name: array.detach().numpy() for name, array in run().items()}


def worst_error(found: Outputs, want: Outputs) -> float:
    assert found.keys() == want.keys()
    return max(float(np.linalg.norm(found[name] - want[name]) / np.linalg.norm(want[name])) for name in want)


def seconds(arm: Arm) -> float:
    """The median of as many calls as fit the budget."""
    taken: list[float] = []
    while sum(taken) < BUDGET_S:
        began = time.perf_counter()
        arm()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def compare(shape: tuple[int, ...], bench_pass: str, backends: list[str], rounds: int) -> None:
    built = {name: ours(job_of(shape, bench_pass, name)) for name in backends}
    built |= {f"torch {name}": theirs(job_of(shape, bench_pass, OURS[0]), name) for name in THEIRS}
    want = built["torch eager"][1]()
    errors = {name: worst_error(outputs(), want) for name, (_, outputs) in built.items()}
    assert max(errors.values()) < TOLERANCE, errors

    times: dict[str, list[float]] = {name: [] for name in built}
    for round_ in range(rounds):
        order = list(built)[round_ % len(built) :] + list(built)[: round_ % len(built)]
        for name in order:
            time.sleep(REST_S)
            times[name].append(seconds(built[name][0]))

    print(f"{shape} {bench_pass}: worst relative error {max(errors.values()):.1e}")
    for name, taken in times.items():
        print(f"  {name:18} {statistics.median(taken) * 1e3:9.1f} ms")
    for name in backends:
        for other in THEIRS:
            pairs = zip(times[f"torch {other}"], times[name], strict=True)
            found = estimate([math.log(their / our) for their, our in pairs])
            assert found is not None
            low, high = (math.exp(edge) for edge in found.interval or (-math.inf, math.inf))
            print(f"  torch {other} / {name}: {math.exp(found.mean):.2f} [{low:.2f}, {high:.2f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", default="1,2,3")
    parser.add_argument("--passes", default=",".join(PASSES))
    parser.add_argument("--arms", default=",".join(OURS))
    chosen = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for number in chosen.shapes.split(","):
        for bench_pass in chosen.passes.split(","):
            compare(SHAPES[int(number) - 1], bench_pass, chosen.arms.split(","), chosen.rounds)


if __name__ == "__main__":
    main()
