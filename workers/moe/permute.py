"""Token order -> packed order and back: `pack`, and the ways to combine.

Packing is a permutation of repeated tokens, so its derivative is a gather by the inverse permutation, and so is that of
combining by a gather: no scatter-add in either direction. JAX's own derivatives of both, which are scatter-adds, can be
had by `Packing.vjp`. Sums over a token's choices are accumulated in float32.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp

from workers.moe.dispatch import Dispatch, Packing


def rows_of(a: jax.Array, index: jax.Array, packing: Packing) -> jax.Array:
    """a[index] for each packed row. index: [rows], len(a) for a row that holds no assignment.

    Such a row is zero when it can lie inside a group, and anything finite that `a` holds when it cannot.
    """
    if packing.complete and packing.capacity is None:
        return a.at[index].get(mode="promise_in_bounds")
    if packing.capacity is not None or packing.vjp == "autodiff":
        return a.at[index].get(mode="fill", fill_value=0)
    return a.at[jnp.minimum(index, len(a) - 1)].get(mode="promise_in_bounds")


def assigned(packed: jax.Array, row: jax.Array, packing: Packing) -> jax.Array:
    """packed[row] for each assignment, zero for one without a row. row: [...] -> [..., hidden]."""
    if packing.complete and packing.capacity is None:
        return packed.at[row].get(mode="promise_in_bounds")
    return packed.at[row].get(mode="fill", fill_value=0)


def pack(x: jax.Array, dispatch: Dispatch, packing: Packing) -> jax.Array:
    """packed[r] = x[token[r]]. x: [tokens, hidden] -> [rows, hidden]."""
    if packing.vjp == "autodiff":
        return rows_of(x, dispatch.token, packing)
    return _pack(packing, x, dispatch)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pack(packing: Packing, x: jax.Array, dispatch: Dispatch) -> jax.Array:
    return rows_of(x, dispatch.token, packing)


def _pack_forward(packing: Packing, x: jax.Array, dispatch: Dispatch) -> tuple[jax.Array, Dispatch]:
    return _pack(packing, x, dispatch), dispatch


def _pack_backward(packing: Packing, dispatch: Dispatch, dpacked: jax.Array) -> tuple[jax.Array, None]:
    """dx[t] = sum_j dpacked[row[t, j]]."""
    return _sum_of_choices(dpacked, dispatch, packing), None


_pack.defvjp(_pack_forward, _pack_backward)


def combine(outputs: jax.Array, weights: jax.Array, dispatch: Dispatch, packing: Packing) -> jax.Array:
    """y[t] = sum_j weights[t, j] * outputs[row[t, j]]: a gather. outputs: [rows, hidden], weights: [tokens, topk]."""
    if packing.vjp == "autodiff":
        return _weighted_sum(outputs, weights, dispatch, packing)
    return _combine(packing, outputs, weights, dispatch)


def _weighted_sum(outputs: jax.Array, weights: jax.Array, dispatch: Dispatch, packing: Packing) -> jax.Array:
    wide = weights.astype(jnp.float32)
    parts = (_choice(outputs, dispatch, j, packing) * wide[:, j, None] for j in range(weights.shape[1]))
    return reduce(jnp.add, parts).astype(outputs.dtype)


def _choice(packed: jax.Array, dispatch: Dispatch, j: int, packing: Packing) -> jax.Array:
    """The rows of every token's j-th choice, wide: float32 [tokens, hidden].

    One choice at a time, so that no [tokens, topk, hidden] array is made to be summed over.
    """
    return assigned(packed, dispatch.row[:, j], packing).astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _combine(packing: Packing, outputs: jax.Array, weights: jax.Array, dispatch: Dispatch) -> jax.Array:
    return _weighted_sum(outputs, weights, dispatch, packing)


_Saved = tuple[jax.Array, jax.Array, Dispatch]


def _combine_forward(
    packing: Packing, outputs: jax.Array, weights: jax.Array, dispatch: Dispatch
) -> tuple[jax.Array, _Saved]:
    return _combine(packing, outputs, weights, dispatch), (outputs, weights, dispatch)


def _combine_backward(packing: Packing, saved: _Saved, dy: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """doutputs[r] = weights[slot[r]] * dy[token[r]];  dweights[t, j] = outputs[row[t, j]] . dy[t]."""
    outputs, weights, dispatch = saved
    scale = rows_of(weights.reshape(-1), dispatch.slot, packing).astype(jnp.float32)
    doutputs = scale[:, None] * rows_of(dy, dispatch.token, packing).astype(jnp.float32)
    wide = dy.astype(jnp.float32)
    choices = range(weights.shape[1])
    dweights = jnp.stack([jnp.sum(_choice(outputs, dispatch, j, packing) * wide, axis=1) for j in choices], axis=1)
    return doutputs.astype(outputs.dtype), dweights.astype(weights.dtype), None


_combine.defvjp(_combine_forward, _combine_backward)


def combine_unweighted(outputs: jax.Array, dispatch: Dispatch, packing: Packing) -> jax.Array:
    """y[t] = sum_j outputs[row[t, j]]: the transpose of `pack`. outputs: [rows, hidden] -> [tokens, hidden]."""
    if packing.vjp == "autodiff":
        return _sum_of_choices(outputs, dispatch, packing)
    return _combine_unweighted(packing, outputs, dispatch)


def _sum_of_choices(packed: jax.Array, dispatch: Dispatch, packing: Packing) -> jax.Array:
    parts = (_choice(packed, dispatch, j, packing) for j in range(dispatch.row.shape[1]))
    return reduce(jnp.add, parts).astype(packed.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _combine_unweighted(packing: Packing, outputs: jax.Array, dispatch: Dispatch) -> jax.Array:
    return _sum_of_choices(outputs, dispatch, packing)


def _combine_unweighted_forward(packing: Packing, outputs: jax.Array, dispatch: Dispatch) -> tuple[jax.Array, Dispatch]:
    return _combine_unweighted(packing, outputs, dispatch), dispatch


def _combine_unweighted_backward(packing: Packing, dispatch: Dispatch, dy: jax.Array) -> tuple[jax.Array, None]:
    """doutputs[r] = dy[token[r]]."""
    return rows_of(dy, dispatch.token, packing), None


_combine_unweighted.defvjp(_combine_unweighted_forward, _combine_unweighted_backward)


def combine_by_scatter(outputs: jax.Array, weights: jax.Array, dispatch: Dispatch, tokens: int) -> jax.Array:
    """y[token[r]] += weights[slot[r]] * outputs[r], rows without an assignment left out. -> [tokens, hidden]."""
    scale = weights.reshape(-1).at[dispatch.slot].get(mode="fill", fill_value=0).astype(jnp.float32)
    parts = scale[:, None] * outputs.astype(jnp.float32)
    y = jnp.zeros((tokens, outputs.shape[1]), jnp.float32).at[dispatch.token].add(parts, mode="drop")
    return y.astype(outputs.dtype)
