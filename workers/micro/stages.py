"""The stages a micro-benchmark is made of: what each adds to the state that flows through them.

A state holds arrays by name: `x` [tokens, hidden], `logits` [tokens, experts], `ids` int32 [tokens, topk], `gates`
[tokens, topk], `dispatch`, `packed` and `outputs` [rows, hidden], `weights` w1 [experts, hidden, mlp_dim] and w2
[experts, mlp_dim, hidden], `y` [tokens, hidden]. Sorting, packing and combining are those of the block.
"""

import jax
import jax.numpy as jnp
from jax import lax

from core.job import CapacityJob, MicroJob, MoeLayerJob
from core.job.micro import RoutedJob
from workers.micro.route import route
from workers.moe.dispatch import Packing, dispatch
from workers.moe.grouped.blocked import BLOCKED
from workers.moe.grouped.matmul import matmul
from workers.moe.grouped.ragged_dot import RAGGED_DOT
from workers.moe.permute import combine, pack
from workers.moe.stages import Stage, State

BACKENDS = {"ragged_dot": RAGGED_DOT, "blocked": BLOCKED}


def packing(job: MicroJob) -> Packing:
    """Every assignment has a row; under a capacity every expert has `capacity` rows, and what is beyond has none."""
    if isinstance(job, CapacityJob):
        rows = job.experts * job.capacity
        return Packing(job.experts, rows, complete=False, capacity=job.capacity, padded=True)
    return Packing(job.experts, job.tokens * job.topk, complete=True)


def route_stage(job: RoutedJob) -> Stage:
    """logits -> ids, gates."""

    def run(state: State) -> State:
        ids, gates = route(job, state["logits"])
        return {"ids": ids, "gates": gates}

    return Stage("route", run)


def sort_stage(job: MicroJob) -> Stage:
    """ids -> dispatch."""
    return Stage("sort", lambda state: {"dispatch": dispatch(state["ids"], packing(job))})


def gather_stage(job: MicroJob) -> Stage:
    """x, dispatch -> packed.

    Packed rows are written before anything reads them: the compiler must not look through experts that do nothing.
    """
    return Stage(
        "gather",
        lambda state: {"packed": lax.optimization_barrier(pack(state["x"], state["dispatch"], packing(job)))},
    )


def pack_stage(job: MicroJob) -> Stage:
    """x, ids -> dispatch, packed."""

    def run(state: State) -> State:
        sorted_ = sort_stage(job).run(state)
        return sorted_ | gather_stage(job).run(state | sorted_)

    return Stage("pack", run)


def ffn_stage(job: MoeLayerJob) -> Stage:
    """packed, dispatch, weights -> outputs = gelu(packed @ w1) @ w2, gelu exact and computed in float32."""
    backend = BACKENDS[job.backend]

    def run(state: State) -> State:
        sizes, weights = state["dispatch"].group_sizes, state["weights"]
        hidden = matmul(backend, state["packed"], weights["w1"], sizes)
        active = jax.nn.gelu(hidden.astype(jnp.float32), approximate=False).astype(hidden.dtype)
        return {"outputs": matmul(backend, active, weights["w2"], sizes)}

    return Stage("ffn", run)


def combine_stage(job: MicroJob, outputs: str) -> Stage:
    """What the state holds under `outputs`, with dispatch and gates -> y."""

    def run(state: State) -> State:
        where, gates = state["dispatch"], state["gates"]
        if isinstance(job, CapacityJob) and job.renorm_after_drop:
            gates = renormalised(gates, where.row < job.experts * job.capacity)
        return {"y": combine(state[outputs], gates, where, packing(job))}

    return Stage("combine", run)


def renormalised(gates: jax.Array, kept: jax.Array) -> jax.Array:
    """The gates that are kept, made to sum to 1 in each row that keeps any, in float32. Both [tokens, topk]."""
    left = jnp.where(kept, gates.astype(jnp.float32), 0)
    total = jnp.sum(left, axis=1, keepdims=True)
    return (left / jnp.where(total > 0, total, 1)).astype(gates.dtype)
