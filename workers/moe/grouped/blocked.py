"""Grouped matmul by padding every group to whole blocks of rows, and multiplying all blocks in one batched matmul.

Portable XLA: gathers and one `dot_general`. Each block lies in one group, so it needs one matrix, gathered beside it.
The work is rows plus padding, however many groups there are. Group sizes are known only when the program runs; the
number of blocks is fixed by the most that any sizes can need.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.grouped.matmul import Backend, precision

# Below 8 rows a block is a matrix-vector product; above 256 a block's matrix is read often enough to be free, and
# longer blocks only add padding.
SHORTEST_BLOCK, LONGEST_BLOCK = 8, 256


def block_rows(rows: int, groups: int) -> int:
    """Rows of a block: a group's mean size, rounded down to a power of two between the shortest and the longest.

    Shorter blocks gather each matrix more often, longer ones pad more than rows. On a CPU in float32 (2048 rows, hidden
    128, mlp_dim 256; 4, 8, 16 and 64 groups) this was the best of 32, 64, 128 and 256 or within 2 % of it; in bfloat16
    within 20 %.
    """
    mean = max(rows // groups, 1)
    return min(max(1 << (mean.bit_length() - 1), SHORTEST_BLOCK), LONGEST_BLOCK)


class Layout(NamedTuple):
    """Where rows lie once their groups are padded to whole blocks.

    group:  [blocks]              the group of each block; blocks beyond the last one needed name some group
    source: [blocks, block_rows]  the row at each place, `rows` at places of padding
    place:  [rows]                the place of each row: the inverse of `source`
    """

    group: jax.Array
    source: jax.Array
    place: jax.Array


def layout(group_sizes: jax.Array, rows: int) -> Layout:
    """Pad each group to whole blocks. group_sizes: int32 [groups], summing to `rows`."""
    groups = group_sizes.shape[0]
    size = block_rows(rows, groups)
    # sum of ceil(s / size) over n non-empty groups <= (rows + n (size - 1)) / size, and n <= min(groups, rows)
    blocks = (rows + min(groups, rows) * (size - 1)) // size
    row_ends = jnp.cumsum(group_sizes)
    row_starts = row_ends - group_sizes
    blocks_needed = -(-group_sizes // size)
    block_ends = jnp.cumsum(blocks_needed)
    block_starts = block_ends - blocks_needed

    group = jnp.minimum(_group_of(jnp.arange(blocks), block_ends), groups - 1)
    within = (jnp.arange(blocks) - block_starts[group])[:, None] * size + jnp.arange(size)
    source = jnp.where(within < group_sizes[group][:, None], row_starts[group][:, None] + within, rows)

    group_of_row = _group_of(jnp.arange(rows), row_ends)
    place = block_starts[group_of_row] * size + jnp.arange(rows) - row_starts[group_of_row]
    return Layout(group, source, place)


def _group_of(positions: jax.Array, ends: jax.Array) -> jax.Array:
    """The group each position falls in, given where the groups end."""
    return jnp.searchsorted(ends, positions, side="right").astype(jnp.int32)


def _to_blocks(a: jax.Array, where: Layout) -> jax.Array:
    """[rows, k] -> [blocks, block_rows, k], padded with zeros."""
    return a.at[where.source].get(mode="fill", fill_value=0)


def _from_blocks(blocks: jax.Array, where: Layout) -> jax.Array:
    """[blocks, block_rows, n] -> [rows, n]."""
    return blocks.reshape(-1, blocks.shape[2]).at[where.place].get(mode="promise_in_bounds")


def _rows(a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool) -> jax.Array:
    where = layout(group_sizes, a.shape[0])
    per_block = b.at[where.group].get(mode="promise_in_bounds")
    return _from_blocks(_batched(_to_blocks(a, where), per_block, 2, 2 if transposed else 1), where)


def _outer(a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    where = layout(group_sizes, a.shape[0])
    per_block = _batched(_to_blocks(a, where), _to_blocks(b, where), 1, 1)
    return jax.ops.segment_sum(per_block, where.group, group_sizes.shape[0], indices_are_sorted=True)


def _batched(a: jax.Array, b: jax.Array, a_contracted: int, b_contracted: int) -> jax.Array:
    return lax.dot_general(
        a,
        b,
        (((a_contracted,), (b_contracted,)), ((0,), (0,))),
        precision=precision(a.dtype),
        preferred_element_type=jnp.float32,
    )


BLOCKED = Backend(rows=_rows, outer=_outer)
