"""The experts: a gated MLP on packed rows. expert(x) = (silu(x @ w1) * (x @ w3)) @ w2.

An implementation differs in how it projects rows to gate and up values, and in nothing else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# A grouped matmul with its group sizes bound: ([rows, k], [experts, k, n]) -> [rows, n].
Matmul = Callable[[jax.Array, jax.Array], jax.Array]
# By name: w1, w3 [experts, hidden, mlp_dim], or w13 [experts, hidden, 2 mlp_dim]; w2 [experts, mlp_dim, hidden].
Weights = dict[str, jax.Array]
# (packed rows [rows, hidden], weights, matmul) -> gate and up, each [rows, mlp_dim].
Projection = Callable[[jax.Array, Weights, Matmul], tuple[jax.Array, jax.Array]]


def separate(packed: jax.Array, weights: Weights, matmul: Matmul) -> tuple[jax.Array, jax.Array]:
    """Two grouped matmuls: w1, then w3."""
    return matmul(packed, weights["w1"]), matmul(packed, weights["w3"])


def fused(packed: jax.Array, weights: Weights, matmul: Matmul) -> tuple[jax.Array, jax.Array]:
    """One grouped matmul with w1|w3, stored side by side."""
    gate, up = jnp.split(matmul(packed, weights["w13"]), 2, axis=1)
    return gate, up


def fused_by_concat(packed: jax.Array, weights: Weights, matmul: Matmul) -> tuple[jax.Array, jax.Array]:
    """One grouped matmul with w1|w3, joined here: the join is part of the step."""
    return fused(packed, {"w13": jnp.concatenate([weights["w1"], weights["w3"]], axis=2)}, matmul)


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, computed in float32 and rounded once. Both [rows, mlp_dim]."""
    wide = jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    return wide.astype(gate.dtype)


def experts(packed: jax.Array, weights: Weights, project: Projection, matmul: Matmul) -> jax.Array:
    """Each row through its own expert. packed: [rows, hidden] -> [rows, hidden]."""
    gate, up = project(packed, weights, matmul)
    return matmul(swiglu(gate, up), weights["w2"])
