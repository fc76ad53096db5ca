"""The Mixture-of-Experts block of a job: which stages, in which order, and what devices say to each other between them.

Tokens are replicated under ep_dense and ep, and split over devices under ep_ring, ep_a2a, ref_dp and staged_dp; experts
are split under every ep mode and replicated under the others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.composition import Composition
from workers.moe.dispatch import Packing
from workers.moe.parallel.all_to_all import back_stage, exchange_stage, home_stage, regroup_stage
from workers.moe.parallel.devices import AXIS, gather_tokens, scatter_sum_tokens, total
from workers.moe.parallel.every_expert import every_expert_stage
from workers.moe.stages import (
    Stage,
    State,
    checkpointed,
    combine_stage,
    down_stage,
    pack_stage,
    route_stage,
    shared_stage,
    up_stage,
)


def block_stages(of: Composition) -> tuple[Stage, ...]:
    """The stages of a device, from its arguments to its `y`."""
    job = of.job
    route = [route_stage(job)] if job.routing == "softmax_topk" else []
    shared = [shared_stage(job, _own_tokens, jnp.add)] if job.shared_expert_dim else []
    sliced = [shared_stage(job, _slice_of_tokens(of.shards), _add_to_slice)] if job.shared_expert_dim else []
    packed = pack_stage(job, of.packing)
    local = pack_stage(job, of.packing, _own_experts(of.local_experts))
    combined = _combine(of, of.packing)
    match job.parallel_mode:
        case "none":
            stages = [*route, packed, *_experts(of), combined, *shared]
        case "ref_dp":
            stages = [*route, every_expert_stage(job), *shared]
        case "staged_dp":
            stages = [_apart(stage) for stage in (*route, packed, *_experts(of), combined, *shared)]
        case "ep_dense" | "ep":
            stages = [*route, local, *_experts(of), combined, *sliced, Stage("reduce", _sum)]
        case "ep_ring":
            reduced = Stage("reduce", _sum_and_scatter)
            stages = [*route, Stage("gather", _gather), local, *_experts(of), combined, reduced, *shared]
        case "ep_a2a":
            there = [home_stage(of), exchange_stage(of), regroup_stage(of)]
            stages = [*route, *there, *_experts(of), back_stage(of), _combine(of, of.home_packing), *shared]
        case "fused_ep":
            raise ValueError("parallel_mode = fused_ep is not built yet")
    return tuple(stages)


def _experts(of: Composition) -> tuple[Stage, ...]:
    up, down = up_stage(of.job, of.backend), down_stage(of.job, of.backend)
    return (checkpointed((up, down), "expert_mlp"),) if of.job.remat_mode == "expert_mlp" else (up, down)


def _combine(of: Composition, packing: Packing) -> Stage:
    combine = combine_stage(of.job, packing)
    return checkpointed((combine,), "combine") if of.job.remat_mode == "combine" else combine


def _apart(stage: Stage) -> Stage:
    """A stage whose results are there before anything of the next one is computed: nothing is fused across."""
    return Stage(stage.name, lambda state: lax.optimization_barrier(stage.run(state)))


def _own_experts(experts: int) -> Callable[[jax.Array], jax.Array]:
    """Expert ids as this device numbers its own experts; the others, and nulls, go nowhere."""

    def own(ids: jax.Array) -> jax.Array:
        local = ids - lax.axis_index(AXIS).astype(jnp.int32) * experts
        return jnp.where((local >= 0) & (local < experts), local, experts)

    return own


def _sum(state: State) -> State:
    return {"y": total(state["y"])}


def _sum_and_scatter(state: State) -> State:
    return {"y": scatter_sum_tokens(state["y"])}


def _gather(state: State) -> State:
    """Every device gets all tokens with their routing, and remembers its own."""
    names = ("x", "ids", "router_weights")
    return {"own_x": state["x"], **{name: gather_tokens(state[name]) for name in names}}


def _own_tokens(state: State) -> jax.Array:
    own: jax.Array = state["own_x"] if "own_x" in state else state["x"]
    return own


def _slice_of_tokens(shards: int) -> Callable[[State], jax.Array]:
    """The tokens a device takes through the shared expert where every device holds all of them."""

    def tokens(state: State) -> jax.Array:
        count = len(state["x"]) // shards
        return lax.dynamic_slice_in_dim(state["x"], lax.axis_index(AXIS) * count, count)

    return tokens


def _add_to_slice(y: jax.Array, part: jax.Array) -> jax.Array:
    start = lax.axis_index(AXIS) * len(part)
    return lax.dynamic_update_slice_in_dim(y, lax.dynamic_slice_in_dim(y, start, len(part)) + part, start, axis=0)
