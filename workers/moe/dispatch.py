"""Where every assignment goes: which row of the packed buffer holds it, and which group of rows it belongs to.

An assignment is a (token, choice) pair; it is numbered token * topk + choice. Rows of one group lie together, in the
order of their assignments. Rows that hold no assignment lie after every group, or are zero inside one: no product of
the groups is moved by them.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Packing(NamedTuple):
    """What is fixed before any routing is known.

    groups:   experts that rows are brought together for; an assignment to expert `groups` goes nowhere
    rows:     rows of the packed buffer
    complete: every assignment has a row, whatever the routing
    capacity: rows a group keeps, the first ones; those beyond are zeroed. None keeps all
    padded:   every group has exactly `capacity` rows
    strategy: how assignments are sorted by expert
    vjp:      whether permutations have our derivative or JAX's
    """

    groups: int
    rows: int
    complete: bool
    capacity: int | None = None
    padded: bool = False
    strategy: Literal["argsort", "tuple_sort"] = "argsort"
    vjp: Literal["custom", "autodiff"] = "custom"


class Dispatch(NamedTuple):
    """A routing, as places in the packed buffer. All int32.

    token:       [rows]          the token of each packed row, `tokens` where it holds none
    slot:        [rows]          the assignment of each packed row, `tokens * topk` where it holds none
    row:         [tokens, topk]  the packed row of each assignment, `rows` where it has none
    group_sizes: [groups]        rows of each group, in the order of the packed rows
    """

    token: jax.Array
    slot: jax.Array
    row: jax.Array
    group_sizes: jax.Array


def dispatch(ids: jax.Array, packing: Packing) -> Dispatch:
    """Sort assignments by expert, stably, and place them. ids: int32 [tokens, topk], each in [0, groups]."""
    tokens, topk = ids.shape
    expert = ids.reshape(-1)
    in_order, slot, token = _sorted(expert, topk, packing.strategy)
    place = jnp.argsort(slot).astype(jnp.int32)
    # where each group begins among the sorted: counting by a search, since counting by a scatter-add is slow on a TPU
    starts = jnp.searchsorted(in_order, jnp.arange(packing.groups + 1)).astype(jnp.int32)
    loads = jnp.diff(starts)
    if packing.complete and packing.capacity is None:
        return Dispatch(token, slot, place.reshape(ids.shape), loads)

    kept, row = expert < packing.groups, place
    if packing.capacity is not None:
        nth = place - starts[expert]
        kept &= nth < packing.capacity
        if packing.padded:
            row = expert * packing.capacity + nth
    position, holds = _held(packing, slot, kept, starts)
    return Dispatch(
        token=jnp.where(holds, token[position], tokens),
        slot=jnp.where(holds, slot[position], tokens * topk),
        row=jnp.where(kept, row, packing.rows).astype(jnp.int32).reshape(ids.shape),
        group_sizes=jnp.full_like(loads, packing.capacity or 0) if packing.padded else loads,
    )


def _held(packing: Packing, slot: jax.Array, kept: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each packed row: its position in the sorted order, and whether it holds the assignment that is there."""
    row = jnp.arange(packing.rows, dtype=jnp.int32)
    if packing.padded and packing.capacity:
        group, nth = row // packing.capacity, row % packing.capacity
        position = starts[group] + nth
        return position, position < starts[group + 1]
    holds = row < starts[-1]
    return row, holds if packing.capacity is None else holds & kept[slot[row]]


def _sorted(expert: jax.Array, topk: int, strategy: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The experts in order, with their assignments and tokens. expert: [assignments] -> int32 [assignments] each.

    argsort: assignments are sorted along, and tokens follow from them. tuple_sort: tokens are sorted along too.
    """
    slot = jnp.arange(expert.size, dtype=jnp.int32)
    if strategy == "argsort":
        expert, slot = lax.sort((expert, slot), num_keys=1, is_stable=True)
        return expert, slot, slot // topk
    expert, slot, token = lax.sort((expert, slot, slot // topk), num_keys=1, is_stable=True)
    return expert, slot, token
