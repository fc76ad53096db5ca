"""The plain block of the profile harness: every expert on every token, weighted by zero where it was not chosen."""

import jax
import jax.numpy as jnp
from jax import lax

from core.job import MoeBlockJob
from workers.moe.experts import swiglu
from workers.moe.grouped.matmul import precision
from workers.moe.stages import Stage, State


def every_expert_stage(job: MoeBlockJob) -> Stage:
    """x, ids, router_weights, weights -> y: [tokens, hidden], summed in float32."""

    def run(state: State) -> State:
        x, weights = state["x"], state["weights"]
        gates = _gates(state["ids"], state["router_weights"], job.experts)

        def add(y: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            gate, w1, w3, w2 = one
            gated = swiglu(_dot(x, w1).astype(x.dtype), _dot(x, w3).astype(x.dtype))
            return y + gate[:, None] * _dot(gated, w2), None

        y = jnp.zeros(x.shape, jnp.float32)
        return {"y": lax.scan(add, y, (gates, weights["w1"], weights["w3"], weights["w2"]))[0].astype(x.dtype)}

    return Stage("every_expert", run)


def _gates(ids: jax.Array, weights: jax.Array, experts: int) -> jax.Array:
    """float32 [experts, tokens]: the router weight of each pair, 0 where the expert was not chosen."""
    token = jnp.arange(len(ids))[:, None]
    dense = jnp.zeros((experts, len(ids)), jnp.float32)
    return dense.at[ids, token].add(weights.astype(jnp.float32), mode="drop")


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=precision(a.dtype), preferred_element_type=jnp.float32)
