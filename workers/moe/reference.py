"""The float32 block that every implementation is compared with: one expert after another, each on its own tokens."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.int8.arithmetic import STRAIGHT_THROUGH
from workers.moe.int8.quantised import quantise_matrices, quantise_rows
from workers.moe.int8.rounded import rounded_dot
from workers.moe.multiply import Numbers

# By matrix: w1, w3 [experts, hidden, mlp_dim], w2 [experts, mlp_dim, hidden]; shared_w1 [hidden, shared_dim] ...
Matrices = dict[str, jax.Array]


class Rounding(NamedTuple):
    """What products are computed in, and whether w1 and w3 are one matrix to it, with one scale."""

    routed: Numbers = Numbers.IN_DTYPE
    shared: Numbers = Numbers.IN_DTYPE
    w13_joined: bool = False
    shared_w13_joined: bool = False


def reference(x: jax.Array, rows: jax.Array, gates: jax.Array, weights: Matrices, rounding: Rounding) -> jax.Array:
    """y[t] = sum_e gate(t, e) * expert_e(x[t]) + shared(x[t]), in float32 at HIGHEST precision.

    x: float32 [tokens, hidden]; rows: int32 [experts, most], the tokens of each expert, filled up with the number of
    tokens; gates: float32, beside rows, the router weight of each.
    """

    def add_expert(y: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        rows, gates, *matrices = one
        outputs = expert(x.at[rows].get(mode="fill", fill_value=0), *matrices, rounding.routed, rounding.w13_joined)
        return y.at[rows].add(gates[:, None] * outputs, mode="drop"), None

    experts = (rows, gates, weights["w1"], weights["w3"], weights["w2"])
    y = lax.scan(add_expert, jnp.zeros_like(x), experts)[0]
    if "shared_w1" in weights:
        shared = (weights["shared_w1"], weights["shared_w3"], weights["shared_w2"])
        y += expert(x, *shared, rounding.shared, rounding.shared_w13_joined)
    return y


@partial(jax.checkpoint, static_argnums=(4, 5))
def expert(x: jax.Array, w1: jax.Array, w3: jax.Array, w2: jax.Array, numbers: Numbers, joined: bool) -> jax.Array:
    """(silu(x @ w1) * (x @ w3)) @ w2. x: [rows, hidden] -> [rows, hidden]."""
    w1, w3, w2 = (matrix.astype(jnp.float32) for matrix in (w1, w3, w2))
    dot = _DOTS[numbers]
    gate, up = jnp.split(dot(x, jnp.hstack([w1, w3])), 2, axis=1) if joined else (dot(x, w1), dot(x, w3))
    return dot(jax.nn.silu(gate) * up, w2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _dot_of_rounded(a: jax.Array, b: jax.Array) -> jax.Array:
    real = STRAIGHT_THROUGH.real
    return _dot(real(quantise_rows(a)), real(quantise_matrices(b[None]))[0])


_DOTS: dict[Numbers, Callable[[jax.Array, jax.Array], jax.Array]] = {
    Numbers.IN_DTYPE: _dot,
    Numbers.ROUNDED: _dot_of_rounded,
    Numbers.INT8: rounded_dot,
}
