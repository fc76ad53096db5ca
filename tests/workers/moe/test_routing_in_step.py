import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.moe.routing import random_logits, softmax_topk, with_nulls
from workers.moe.routing.in_step import route

TOKENS, EXPERTS = 4, 5
# One unit in the last place: both sides round once, from values that differ by float32's rounding.
RELATIVE = {"float32": 2e-6, "bfloat16": 2**-7}

jitted = jax.jit(route, static_argnums=(2, 3, 4))


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 4]))


def assert_routes_as_the_host(logits, null, topk, renormalize_topk, renormalize_real):
    """logits: NumPy, in the dtype the step gets them in."""
    expected = softmax_topk(logits, topk, renormalize_topk)
    if null is not None:
        expected = with_nulls(expected, null, logits.shape[1], renormalize_real)
    ids, weights = jitted(logits, null, topk, renormalize_topk, renormalize_real)
    assert (ids.dtype, weights.dtype) == (np.int32, logits.dtype)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_allclose(
        np.asarray(weights, np.float32), expected.weights, rtol=RELATIVE[logits.dtype.name], atol=0
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@given(
    # few values, so that many are equal
    logits=arrays(np.float32, (TOKENS, EXPERTS), elements=st.sampled_from([-2.0, -0.7, -0.0, 0.0, 1.0, 1.001, 5.0])),
    null=st.none() | arrays(np.bool_, (TOKENS, 3)),
    renormalize_topk=st.booleans(),
    renormalize_real=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_route_equal_logits_goes_where_the_host_says(dtype, logits, null, renormalize_topk, renormalize_real):
    assert_routes_as_the_host(logits.astype(dtype), null, 3, renormalize_topk, renormalize_real)


@pytest.mark.parametrize("topk", [1, EXPERTS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_route_one_choice_or_every_expert_goes_where_the_host_says(dtype, topk):
    logits = random_logits(generator(topk), TOKENS, EXPERTS).astype(dtype)
    null = generator(9).random((TOKENS, topk)) < 0.5
    assert_routes_as_the_host(logits, None, topk, False, True)
    assert_routes_as_the_host(logits, null, topk, False, True)


def test_route_drawn_bfloat16_logits_tie_and_go_where_the_host_says():
    logits = random_logits(generator(3), 2048, 64).astype(jnp.bfloat16)
    largest = -np.sort(-logits.astype(np.float32), axis=1)[:, :9]
    assert (np.diff(largest, axis=1) == 0).any(axis=1).sum() > 100
    assert_routes_as_the_host(logits, None, 8, True, True)


def test_route_known_logits_gives_softmax_over_all_and_nothing_to_null():
    logits = jnp.log(jnp.array([[1.0, 6, 3, 2], [4, 4, 1, 0.5]]))
    null = jnp.array([[True, False], [True, True]])
    ids, weights = jitted(logits, null, 2, False, False)
    assert ids.tolist() == [[4, 2], [4, 4]]
    np.testing.assert_allclose(weights, [[0, 3 / 12], [0, 0]], rtol=1e-6)
    _, renormalized = jitted(logits, null, 2, False, True)
    np.testing.assert_allclose(renormalized, [[0, 1], [0, 0]], rtol=1e-6)


def test_route_null_first_choice_far_above_the_rest_leaves_weights_that_sum_to_one():
    ids, weights = jitted(jnp.array([[300.0, 0, 0, -300]]), jnp.array([[True, False, False]]), 3, False, True)
    assert ids.tolist() == [[4, 1, 2]]
    np.testing.assert_allclose(weights, [[0, 0.5, 0.5]], rtol=1e-6)


def test_route_weights_carry_no_gradient():
    logits = jnp.array([[0.3, -1.0, 2.0, 0.1]])
    null = jnp.array([[False, True]])
    gradient = jax.grad(lambda logits: route(logits, null, 2, False, False)[1].sum())(logits)
    assert gradient.tolist() == [[0, 0, 0, 0]]
