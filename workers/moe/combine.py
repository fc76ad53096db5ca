"""Expert order -> token order: each token's expert outputs, weighted and summed in float32."""

import jax
import jax.numpy as jnp

from workers.moe.dispatch import Dispatch


@jax.custom_vjp
def combine(outputs: jax.Array, weights: jax.Array, dispatch: Dispatch) -> jax.Array:
    """y[t] = sum_j weights[t, j] * outputs[row[t, j]]. outputs: [rows, hidden], weights: [tokens, topk]."""
    parts = outputs.at[dispatch.row].get(mode="promise_in_bounds").astype(jnp.float32)
    return jnp.sum(parts * weights.astype(jnp.float32)[:, :, None], axis=1).astype(outputs.dtype)


_Saved = tuple[jax.Array, jax.Array, Dispatch]


def _combine_forward(outputs: jax.Array, weights: jax.Array, dispatch: Dispatch) -> tuple[jax.Array, _Saved]:
    return combine(outputs, weights, dispatch), (outputs, weights, dispatch)


def _combine_backward(saved: _Saved, dy: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """doutputs[r] = weights[slot[r]] * dy[token[r]];  dweights[t, j] = outputs[row[t, j]] . dy[t]."""
    outputs, weights, dispatch = saved
    wide = dy.astype(jnp.float32)
    scale = weights.reshape(-1).at[dispatch.slot].get(mode="promise_in_bounds").astype(jnp.float32)
    doutputs = scale[:, None] * wide.at[dispatch.token].get(mode="promise_in_bounds")
    parts = outputs.at[dispatch.row].get(mode="promise_in_bounds").astype(jnp.float32)
    dweights = jnp.sum(parts * wide[:, None, :], axis=2)
    return doutputs.astype(outputs.dtype), dweights.astype(weights.dtype), None


combine.defvjp(_combine_forward, _combine_backward)
