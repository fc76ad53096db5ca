"""Grouped matmul by walking the rows in blocks, each of one group and multiplied with that group's matrix.

Portable XLA: loops around one `dot_general`. A group's rows lie together, so a block is a slice. How often the loops
run is known only when the program runs; the lengths of blocks are fixed. Groups without rows, and rows without a group,
are never visited.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.grouped.matmul import Backend, accumulator, precision, rounded

# A group is walked in the longest blocks, and its rest is one block too, rounded up to a whole step: each block reads
# the group's matrix once, and a product of few rows is slow. What a block computes beyond its group is thrown away.
STEP = 32
LENGTHS = tuple(range(256, 0, -STEP))


class Group(NamedTuple):
    """A group that has rows: its number, its first row, and the row after its last. int32 scalars."""

    number: jax.Array
    start: jax.Array
    end: jax.Array


def _rows(a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool) -> jax.Array:
    rows, columns = a.shape[0], b.shape[1 if transposed else 2]
    lengths = _lengths(rows)

    def multiply(group: Group, out: jax.Array) -> jax.Array:
        matrix = lax.dynamic_index_in_dim(b, group.number, keepdims=False)

        def block(length: int, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            begin, out = at
            place = jnp.minimum(begin, rows - length)
            product = _dot(lax.dynamic_slice_in_dim(a, place, length), matrix, 1, 1 if transposed else 0)
            done = (place + jnp.arange(length) < begin)[:, None]
            product = jnp.where(done, lax.dynamic_slice_in_dim(out, place, length), rounded(product, a.dtype))
            return begin + length, lax.dynamic_update_slice_in_dim(out, product, place, 0)

        at = (group.start, out)
        for length in lengths:
            fills = length - STEP + 1 if length > lengths[-1] else 1
            at = lax.while_loop(partial(_remain, group.end, fills), partial(block, length), at)
        return at[1]

    dtype = accumulator(a.dtype) if a.dtype == jnp.int8 else a.dtype
    return _over_groups(multiply, group_sizes, jnp.zeros((rows, columns), dtype))


def _outer(a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    lengths = _lengths(a.shape[0])
    whole = lengths[0]

    def multiply(group: Group, out: jax.Array) -> jax.Array:
        # what is left once whole blocks are taken away, from 1 row to a whole block
        rest = (group.end - group.start - 1) % whole + 1

        def shorter(length: int) -> jax.Array:
            place = jnp.minimum(group.start, a.shape[0] - length)
            row = place + jnp.arange(length)
            kept = ((row >= group.start) & (row < group.start + rest))[:, None]
            left, right = (jnp.where(kept, lax.dynamic_slice_in_dim(side, place, length), 0) for side in (a, b))
            return _dot(left, right, 0, 0)

        def add(at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            begin, sums = at
            left, right = (lax.dynamic_slice_in_dim(side, begin, whole) for side in (a, b))
            return begin + whole, sums + _dot(left, right, 0, 0)

        first = lax.switch(
            sum((rest <= length).astype(jnp.int32) for length in lengths) - 1,
            [partial(shorter, length) for length in lengths],
        )
        sums = lax.while_loop(partial(_remain, group.end, 1), add, (group.start + rest, first))[1]
        return lax.dynamic_update_index_in_dim(out, rounded(sums, a.dtype), group.number, 0)

    shape = (group_sizes.shape[0], a.shape[1], b.shape[1])
    return _over_groups(multiply, group_sizes, jnp.zeros(shape, a.dtype))


def _over_groups(step: Callable[[Group, jax.Array], jax.Array], group_sizes: jax.Array, out: jax.Array) -> jax.Array:
    """`out` after `step` for every group that has rows, in order."""
    ends = jnp.cumsum(group_sizes, dtype=jnp.int32)
    occupied = jnp.flatnonzero(group_sizes, size=group_sizes.shape[0], fill_value=0)

    def one(i: jax.Array, out: jax.Array) -> jax.Array:
        number = occupied[i]
        return step(Group(number, ends[number] - group_sizes[number], ends[number]), out)

    return lax.fori_loop(0, jnp.count_nonzero(group_sizes), one, out)


def _lengths(rows: int) -> tuple[int, ...]:
    """Those that `rows` rows can fill, or all rows as one."""
    return tuple(length for length in LENGTHS if length <= rows) or (rows,)


def _remain(end: jax.Array, at_least: int, at: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Whether at least so many rows remain before `end`."""
    return at[0] + at_least <= end


def _dot(a: jax.Array, b: jax.Array, a_contracted: int, b_contracted: int) -> jax.Array:
    return lax.dot_general(
        a,
        b,
        (((a_contracted,), (b_contracted,)), ((), ())),
        precision=precision(a.dtype),
        preferred_element_type=accumulator(a.dtype),
    )


BLOCKED = Backend(rows=_rows, outer=_outer)
