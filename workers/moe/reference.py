"""The float32 block that every implementation is compared with: one expert after another, each on its own tokens."""

import jax
import jax.numpy as jnp
from jax import lax


def reference(
    x: jax.Array, rows: jax.Array, gates: jax.Array, w1: jax.Array, w3: jax.Array, w2: jax.Array
) -> jax.Array:
    """y[t] = sum_e gate(t, e) * expert_e(x[t]), in float32 at HIGHEST precision. x: float32 [tokens, hidden].

    rows: int32 [experts, most], the tokens of each expert, filled up with the number of tokens; gates: float32, beside
    rows, the router weight of each; w1, w3: [experts, hidden, mlp_dim]; w2: [experts, mlp_dim, hidden].
    """

    def add_expert(y: jax.Array, one: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        rows, gates, *matrices = one
        outputs = expert(x.at[rows].get(mode="fill", fill_value=0), *matrices)
        return y.at[rows].add(gates[:, None] * outputs, mode="drop"), None

    return lax.scan(add_expert, jnp.zeros_like(x), (rows, gates, w1, w3, w2))[0]


@jax.checkpoint
def expert(x: jax.Array, w1: jax.Array, w3: jax.Array, w2: jax.Array) -> jax.Array:
    """(silu(x @ w1) * (x @ w3)) @ w2. x: [rows, hidden] -> [rows, hidden]."""
    return _dot(jax.nn.silu(_dot(x, w1)) * _dot(x, w3), w2)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b.astype(jnp.float32), precision=lax.Precision.HIGHEST)
