"""The Mixture-of-Experts block, composed of its stages: dispatch -> experts -> combine."""

from functools import partial
from typing import NamedTuple

import jax

from core.job import MoeBlockJob
from workers.moe import experts as stage
from workers.moe.combine import combine
from workers.moe.dispatch import pack, sort_by_expert
from workers.moe.grouped.blocked import BLOCKED
from workers.moe.grouped.matmul import Backend, matmul
from workers.moe.grouped.ragged_dot import RAGGED_DOT

BACKENDS: dict[str, Backend] = {"ragged_dot": RAGGED_DOT, "blocked": BLOCKED}


class Composition(NamedTuple):
    """What a job chooses of the block's stages."""

    backend: Backend
    project: stage.Projection


def composition(job: MoeBlockJob) -> Composition:
    return Composition(BACKENDS[job.backend], projection(job))


def projection(job: MoeBlockJob) -> stage.Projection:
    match job.impl, job.w13_param:
        case "baseline", _:
            return stage.separate
        case "fused_w13", "stored":
            return stage.fused
        case "fused_w13", "concat":
            return stage.fused_by_concat
    raise ValueError(f"no projection for impl = {job.impl}, w13_param = {job.w13_param}")


def moe_block(
    chosen: Composition, x: jax.Array, ids: jax.Array, router_weights: jax.Array, weights: stage.Weights
) -> jax.Array:
    """y[t] = sum_j router_weights[t, j] * expert[ids[t, j]](x[t]).

    x: [tokens, hidden], ids: int32 [tokens, topk], router_weights: [tokens, topk] -> [tokens, hidden].
    """
    dispatch = sort_by_expert(ids, experts=weights["w2"].shape[0])
    grouped = partial(matmul, chosen.backend)
    outputs = stage.experts(
        pack(x, dispatch), weights, chosen.project, lambda a, b: grouped(a, b, dispatch.group_sizes)
    )
    return combine(outputs, router_weights, dispatch)
