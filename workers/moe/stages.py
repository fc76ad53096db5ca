"""The stages of the block on one device: what each adds to the state that flows through them.

A state holds arrays by name. It begins with the arguments of the step (`x`, `ids`, `router_weights`, `weights`; or
`logits` and `null` when the step routes) and ends with `y`. Every mode of parallelism is a sequence of these stages
with its own between them; to time a stage alone is to run it on the state before it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.job import MoeBlockJob
from core.job.combinations import FUSED
from workers.moe import experts
from workers.moe.dispatch import Dispatch, Packing, dispatch
from workers.moe.grouped.matmul import Backend
from workers.moe.int8.quantised import Quantised
from workers.moe.multiply import Numbers, multiply, quantised_rows, routed_numbers, shared_numbers
from workers.moe.permute import combine, combine_by_scatter, combine_unweighted, pack, rows_of
from workers.moe.routing.in_step import route
from workers.moe.shared import DENSE

State = dict[str, Any]

PREWEIGHT = ("preweight", "fused_w13_preweight")
SCATTER = ("scatter", "fast")

# How the shared expert's weights are named among the others: shared_w1 [hidden, shared_expert_dim] ...
SHARED = "shared_"


class Stage(NamedTuple):
    """`run` returns what the stage adds to the state, or replaces in it."""

    name: str
    run: Callable[[State], State]


def run_stages(stages: Sequence[Stage], state: State) -> State:
    """The state after all stages, each under its name in the program."""
    return state | _added(stages, state)


def _added(stages: Sequence[Stage], state: State) -> State:
    added: State = {}
    for stage in stages:
        with jax.named_scope(stage.name):
            added |= stage.run(state | added)
    return added


def checkpointed(stages: Sequence[Stage], name: str) -> Stage:
    """Several stages as one whose inside the backward pass computes again instead of keeping it."""

    def run(state: State) -> State:
        return jax.checkpoint(lambda state: _added(stages, state))(state)

    return Stage(name, run)


def route_stage(job: MoeBlockJob) -> Stage:
    """logits: [tokens, experts] -> ids: int32 [tokens, topk], router_weights: [tokens, topk]."""

    def run(state: State) -> State:
        ids, weights = route(
            state["logits"], state.get("null"), job.topk, job.renormalize_topk, job.renormalize_real_after_null
        )
        return {"ids": ids, "router_weights": weights}

    return Stage("route", run)


def pack_rows(rows: Any, where: Dispatch, packing: Packing) -> Any:
    """[tokens, hidden] -> [rows, hidden], quantised or not."""
    if not isinstance(rows, Quantised):
        return pack(rows, where, packing)
    return Quantised(
        carrier=pack(rows.carrier, where, packing),
        values=rows_of(rows.values, where.token, packing),
        scale=rows_of(rows.scale, where.token, packing),
    )


def pack_stage(job: MoeBlockJob, packing: Packing, own: Callable[[jax.Array], jax.Array] = lambda ids: ids) -> Stage:
    """x, ids -> dispatch, packed: [rows, hidden], row_weights: [rows] for the impls that weigh before w2.

    `own` numbers expert ids as this device does. Experts that work in int8 get each token quantised once, before it is
    packed.
    """

    def run(state: State) -> State:
        x, where = state["x"], dispatch(own(state["ids"]), packing)
        if routed_numbers(job) is Numbers.INT8:
            x = quantised_rows(job, x)
        packed = {"dispatch": where, "packed": pack_rows(x, where, packing)}
        if job.impl in PREWEIGHT:
            packed["row_weights"] = rows_of(state["router_weights"].reshape(-1), where.slot, packing)
        return packed

    return Stage("pack", run)


def projection(job: MoeBlockJob) -> experts.Projection:
    if job.impl not in FUSED:
        return experts.separate
    return experts.fused if job.w13_param == "stored" else experts.fused_by_concat


def up_stage(job: MoeBlockJob, backend: Backend) -> Stage:
    """packed, dispatch -> gated: [rows, mlp_dim]."""
    project = projection(job)

    def run(state: State) -> State:
        product = multiply(routed_numbers(job), job, backend, state["dispatch"].group_sizes)
        gate, up = project(state["packed"], state["weights"], product)
        return {"gated": experts.swiglu(gate, up, state.get("row_weights"))}

    return Stage("up", run)


def down_stage(job: MoeBlockJob, backend: Backend) -> Stage:
    """gated, dispatch -> outputs: [rows, hidden]."""

    def run(state: State) -> State:
        product = multiply(routed_numbers(job), job, backend, state["dispatch"].group_sizes)
        return {"outputs": product(state["gated"], state["weights"]["w2"])}

    return Stage("down", run)


def combine_stage(job: MoeBlockJob, packing: Packing) -> Stage:
    """outputs, dispatch, router_weights -> y: [tokens, hidden], of the experts that are here."""

    def run(state: State) -> State:
        outputs, where, weights = state["outputs"], state["dispatch"], state["router_weights"]
        if job.impl in PREWEIGHT:
            return {"y": combine_unweighted(outputs, where, packing)}
        if job.impl in SCATTER:
            return {"y": combine_by_scatter(outputs, weights, where, len(weights))}
        return {"y": combine(outputs, weights, where, packing)}

    return Stage("combine", run)


def shared_stage(job: MoeBlockJob, x_of: Callable[[State], jax.Array], add: Callable[..., jax.Array]) -> Stage:
    """y + the shared expert of some tokens. `x_of` takes them from the state, `add` (y, part) puts them into y."""
    project = experts.fused if job.shared_fused else experts.separate

    def run(state: State) -> State:
        x = x_of(state)
        one_group = jnp.full(1, len(x), jnp.int32)
        product = multiply(shared_numbers(job), job, DENSE, one_group)
        weights = {
            name.removeprefix(SHARED): array[None]
            for name, array in state["weights"].items()
            if name.startswith(SHARED)
        }
        return {"y": add(state["y"], experts.mlp(x, weights, project, product))}

    return Stage("shared", run)
