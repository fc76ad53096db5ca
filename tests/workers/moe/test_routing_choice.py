import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moe.routing import random_logits, softmax_topk, topk_softmax

# softmax of these is 1/12, 6/12, 3/12, 2/12 and 8/19, 8/19, 2/19, 1/19
LOGITS = np.log(np.array([[1, 6, 3, 2], [4, 4, 1, 0.5]], np.float32))


def test_topk_softmax_known_logits_gives_largest_first_and_their_softmax():
    routing = topk_softmax(LOGITS, 2)
    assert routing.ids.tolist() == [[1, 2], [0, 1]]  # equal logits: the lower expert first
    np.testing.assert_allclose(routing.weights, [[6 / 9, 3 / 9], [0.5, 0.5]], rtol=1e-6)
    assert (routing.ids.dtype, routing.weights.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("renormalize", "weights"),
    [(False, [[6 / 12, 3 / 12], [8 / 19, 8 / 19]]), (True, [[6 / 9, 3 / 9], [0.5, 0.5]])],
)
def test_softmax_topk_known_logits_gives_softmax_over_all(renormalize, weights):
    routing = softmax_topk(LOGITS, 2, renormalize)
    assert routing.ids.tolist() == [[1, 2], [0, 1]]
    np.testing.assert_allclose(routing.weights, weights, rtol=1e-6)
    assert (routing.ids.dtype, routing.weights.dtype) == (np.int32, np.float32)


def test_topk_softmax_large_logits_do_not_overflow():
    logits = np.array([[1000.0, 999.0, -1000.0]], np.float32)
    expected = [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0]]
    np.testing.assert_allclose(topk_softmax(logits, 3).weights, expected, rtol=1e-6)
    np.testing.assert_allclose(softmax_topk(logits, 3, renormalize=False).weights, expected, rtol=1e-6)


def test_softmax_topk_bfloat16_logits_route_as_their_exact_values():
    logits = random_logits(np.random.Generator(np.random.Philox(key=[1, 2])), 300, 40).astype(jnp.bfloat16)
    narrow, wide = softmax_topk(logits, 6, False), softmax_topk(logits.astype(np.float32), 6, False)
    np.testing.assert_array_equal(narrow.ids, wide.ids)
    np.testing.assert_array_equal(narrow.weights, wide.weights)
    assert narrow.weights.dtype == np.float32


@given(seed=st.integers(0, 2**32), experts=st.integers(1, 12), data=st.data())
@settings(max_examples=40, deadline=None)
def test_softmax_topk_renormalized_is_topk_softmax(seed, experts, data):
    topk = data.draw(st.integers(1, experts))
    # few values, so that many are equal
    logits = np.random.default_rng(seed).integers(-3, 4, (20, experts)).astype(np.float32)
    chosen, renormalized, plain = (
        topk_softmax(logits, topk),
        softmax_topk(logits, topk, True),
        softmax_topk(logits, topk, False),
    )
    np.testing.assert_array_equal(chosen.ids, renormalized.ids)
    np.testing.assert_array_equal(chosen.ids, plain.ids)
    np.testing.assert_allclose(chosen.weights, renormalized.weights, rtol=1e-6)
    np.testing.assert_allclose(renormalized.weights.sum(axis=1), 1, rtol=1e-6)
    assert (plain.weights.sum(axis=1) <= 1 + 1e-6).all()
    assert (np.diff(plain.weights, axis=1) <= 0).all()
