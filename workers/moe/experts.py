"""The experts: a gated MLP. expert(x) = (silu(x @ w1) * (x @ w3)) @ w2, each row by the matrices of its group.

`up` goes from rows to gated activations, `down` back; between them lies the only non-linearity. How a row is multiplied
by its group's matrix (`Multiply`) is somebody else's: a backend, int8, or one dense matrix.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# (rows [rows, k], matrices [groups, k, n]) -> [rows, n], in the rows' dtype.
Multiply = Callable[[Any, Any], jax.Array]
# By name: w1, w3 [groups, hidden, mlp_dim], or w13 [groups, hidden, 2 mlp_dim]; w2 [groups, mlp_dim, hidden].
Weights = dict[str, Any]
# (rows [rows, hidden], weights, multiply) -> gate and up values, each [rows, mlp_dim].
Projection = Callable[[Any, Weights, Multiply], tuple[jax.Array, jax.Array]]


def separate(rows: Any, weights: Weights, multiply: Multiply) -> tuple[jax.Array, jax.Array]:
    """Two products: w1, then w3."""
    return multiply(rows, weights["w1"]), multiply(rows, weights["w3"])


def fused(rows: Any, weights: Weights, multiply: Multiply) -> tuple[jax.Array, jax.Array]:
    """One product with w1|w3, stored side by side."""
    gate, up = jnp.split(multiply(rows, weights["w13"]), 2, axis=1)
    return gate, up


def fused_by_concat(rows: Any, weights: Weights, multiply: Multiply) -> tuple[jax.Array, jax.Array]:
    """One product with w1|w3, joined here: the join is part of the step."""
    return fused(rows, {"w13": jnp.concatenate([weights["w1"], weights["w3"]], axis=2)}, multiply)


def swiglu(gate: jax.Array, up: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """silu(gate) * up, times a row's `scale` when there is one: float32 inside, rounded once.

    gate, up: [rows, mlp_dim]; scale: [rows].
    """
    wide = jax.nn.silu(gate.astype(jnp.float32)) * up.astype(jnp.float32)
    if scale is not None:
        wide *= scale.astype(jnp.float32)[:, None]
    return wide.astype(gate.dtype)


def mlp(x: jax.Array, weights: Weights, project: Projection, multiply: Multiply) -> jax.Array:
    """Up and down again. x: [rows, hidden] -> [rows, hidden]."""
    return multiply(swiglu(*project(x, weights, multiply)), weights["w2"])
