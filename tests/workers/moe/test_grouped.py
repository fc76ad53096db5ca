"""The blocked layout: every row has one place, in a block of its own group."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moe.grouped.blocked import LONGEST_BLOCK, SHORTEST_BLOCK, block_rows, layout


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=7).filter(any))
def test_layout_any_group_sizes_keeps_rows_in_blocks_of_their_group(sizes):
    rows = sum(sizes)
    where = jax.jit(layout, static_argnums=1)(np.array(sizes, np.int32), rows)
    source = np.asarray(where.source)
    group_of_row = np.repeat(np.arange(len(sizes)), sizes)
    assert sorted(source[source < rows]) == list(range(rows))
    assert list(source.reshape(-1)[np.asarray(where.place)]) == list(range(rows))
    for group, block in zip(np.asarray(where.group), source, strict=True):
        assert set(group_of_row[block[block < rows]]) <= {group}


@given(st.integers(1, 2**31 - 1), st.integers(1, 4096))
def test_block_rows_any_size_is_a_power_of_two_within_bounds(rows, groups):
    size = block_rows(rows, groups)
    assert SHORTEST_BLOCK <= size <= LONGEST_BLOCK
    assert size & (size - 1) == 0
    assert size <= max(rows // groups, SHORTEST_BLOCK)
