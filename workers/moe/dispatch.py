"""Token order -> expert order: the rows of each expert brought together.

An assignment is a (token, choice) pair; there are rows = tokens x topk of them. Packing them is a permutation of
repeated tokens, so its derivative is a gather by the inverse permutation: no scatter-add in either direction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dispatch(NamedTuple):
    """Where every assignment goes. All int32.

    token:       [rows]          the token of each packed row
    slot:        [rows]          the assignment (token * topk + choice) of each packed row
    row:         [tokens, topk]  the packed row of each assignment: the inverse of `slot`
    group_sizes: [experts]       rows of each expert, in the order of the packed rows
    """

    token: jax.Array
    slot: jax.Array
    row: jax.Array
    group_sizes: jax.Array


def sort_by_expert(ids: jax.Array, experts: int) -> Dispatch:
    """Sort assignments by expert, stably: an expert's rows stay in token order. ids: int32 [tokens, topk]."""
    topk = ids.shape[1]
    flat = ids.reshape(-1)
    slot = jnp.argsort(flat, stable=True).astype(jnp.int32)
    row = jnp.argsort(slot).astype(jnp.int32).reshape(ids.shape)
    group_sizes = jnp.bincount(flat, length=experts).astype(jnp.int32)
    return Dispatch(token=slot // topk, slot=slot, row=row, group_sizes=group_sizes)


@jax.custom_vjp
def pack(x: jax.Array, dispatch: Dispatch) -> jax.Array:
    """packed[r] = x[token[r]]. x: [tokens, hidden] -> [rows, hidden]."""
    return x.at[dispatch.token].get(mode="promise_in_bounds")


def _pack_forward(x: jax.Array, dispatch: Dispatch) -> tuple[jax.Array, Dispatch]:
    return pack(x, dispatch), dispatch


def _pack_backward(dispatch: Dispatch, dpacked: jax.Array) -> tuple[jax.Array, None]:
    """dx[t] = sum_j dpacked[row[t, j]], accumulated in float32."""
    parts = dpacked.at[dispatch.row].get(mode="promise_in_bounds")
    return jnp.sum(parts, axis=1, dtype=jnp.float32).astype(dpacked.dtype), None


pack.defvjp(_pack_forward, _pack_backward)
