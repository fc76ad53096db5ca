import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moe.routing import kept

# three experts, id 3 is null
IDS = np.array([[0, 1], [1, 0], [3, 0], [1, 3], [0, 2]], np.int32)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (None, [[1, 1], [1, 1], [0, 1], [1, 0], [1, 1]]),
        (2, [[1, 1], [1, 1], [0, 0], [0, 0], [0, 1]]),
        (1, [[1, 1], [0, 0], [0, 0], [0, 0], [0, 1]]),
        (0, [[0, 0]] * 5),
    ],
)
def test_kept_known_routing_keeps_the_first_in_token_order(capacity, expected):
    keep = kept(IDS, 3, capacity)
    assert keep.dtype == np.bool_
    assert keep.astype(int).tolist() == expected


@given(seed=st.integers(0, 2**32), experts=st.integers(1, 6), topk=st.integers(1, 4), capacity=st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_kept_any_routing_is_what_counting_in_token_order_keeps(seed, experts, topk, capacity):
    ids = np.random.default_rng(seed).integers(0, experts + 1, (15, topk)).astype(np.int32)
    count, expected = [0] * experts + [capacity], []
    for expert in ids.reshape(-1).tolist():
        expected.append(count[expert] < capacity)
        count[expert] += 1
    assert kept(ids, experts, capacity).reshape(-1).tolist() == expected
    assert (kept(ids, experts, ids.size) == kept(ids, experts, None)).all()
