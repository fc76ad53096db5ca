import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.moe.routing import Routing, null_slots, random_logits, topk_softmax, with_nulls

MODES = ("independent", "take_until_null")
ROUTING = Routing(np.array([[3, 1, 0], [2, 0, 1]], np.int32), np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]], np.float32))
NULL = np.array([[False, True, False], [True, True, True]])


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 6]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_null_slots_fraction_zero_or_one_is_exact(mode, fraction):
    null = null_slots(generator(0), 1000, 8, fraction, mode)
    assert (null.shape, null.dtype) == ((1000, 8), np.bool_)
    assert (null == bool(fraction)).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_null_slots_independent_are_null_with_their_probability(fraction):
    null = null_slots(generator(1), 20000, 4, fraction, "independent")
    np.testing.assert_allclose(null.mean(axis=0), fraction, atol=0.015)
    # neighbours in a token do not depend on each other
    assert (null[:, 0] & null[:, 1]).mean() == pytest.approx(fraction**2, abs=0.015)


def test_null_slots_take_until_null_keeps_a_choice_with_falling_probability():
    null = null_slots(generator(1), 20000, 4, 0.3, "take_until_null")
    np.testing.assert_allclose(1 - null.mean(axis=0), [0.7, 0.7**2, 0.7**3, 0.7**4], atol=0.015)


def test_null_slots_one_seed_gives_the_array_it_always_gave():
    null = null_slots(generator(7), 64, 4, 0.5, "independent")
    assert hashlib.sha256(null.tobytes()).hexdigest()[:16] == "3904314d2742cb39"


@given(seed=st.integers(0, 2**32), topk=st.integers(1, 8), fraction=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_null_slots_take_until_null_is_independent_with_every_later_choice(seed, topk, fraction):
    independent = null_slots(generator(seed), 30, topk, fraction, "independent")
    until = null_slots(generator(seed), 30, topk, fraction, "take_until_null")
    for token, row in enumerate(independent.tolist()):
        first = row.index(True) if True in row else topk
        assert until[token].tolist() == [False] * first + [True] * (topk - first)


@given(seed=st.integers(0, 2**32), fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)), mode=st.sampled_from(MODES))
@settings(max_examples=60, deadline=None)
def test_null_slots_larger_fraction_contains_the_smaller(seed, fractions, mode):
    fewer, more = (null_slots(generator(seed), 50, 4, fraction, mode) for fraction in sorted(fractions))
    assert (more | ~fewer).all()


@pytest.mark.parametrize(
    ("renormalize", "weights"),
    [(True, [[0.5 / 0.7, 0, 0.2 / 0.7], [0, 0, 0]]), (False, [[0.5, 0, 0.2], [0, 0, 0]])],
)
def test_with_nulls_known_slots_go_nowhere_with_weight_zero(renormalize, weights):
    routing = with_nulls(ROUTING, NULL, 4, renormalize)
    assert routing.ids.tolist() == [[3, 4, 0], [4, 4, 4]]
    np.testing.assert_allclose(routing.weights, weights, rtol=1e-6)
    assert (routing.ids.dtype, routing.weights.dtype) == (np.int32, np.float32)


def test_with_nulls_weights_below_one_without_a_null_are_renormalized_too():
    half = Routing(ROUTING.ids, ROUTING.weights / 2)
    np.testing.assert_allclose(with_nulls(half, np.zeros((2, 3), bool), 4, True).weights, ROUTING.weights, rtol=1e-6)


def test_with_nulls_leaves_its_argument_as_it_was():
    routing = Routing(ROUTING.ids.copy(), ROUTING.weights.copy())
    with_nulls(routing, NULL, 4, True)
    np.testing.assert_array_equal(routing.ids, ROUTING.ids)
    np.testing.assert_array_equal(routing.weights, ROUTING.weights)


@given(seed=st.integers(0, 2**32), fraction=st.floats(0, 1), mode=st.sampled_from(MODES))
@settings(max_examples=40, deadline=None)
def test_with_nulls_real_weights_sum_to_one_and_keep_their_ratios(seed, fraction, mode):
    drawn = topk_softmax(random_logits(generator(seed), 40, 9), 5)
    null = null_slots(generator(seed + 1), 40, 5, fraction, mode)
    routing = with_nulls(drawn, null, 9, True)
    any_left = ~null.all(axis=1)
    np.testing.assert_allclose(routing.weights.sum(axis=1), any_left, rtol=1e-6)
    kept = np.where(null, 0, drawn.weights)
    np.testing.assert_allclose(routing.weights * kept.sum(axis=1, keepdims=True), kept, rtol=1e-5)
    np.testing.assert_array_equal(routing.ids, np.where(null, 9, drawn.ids))
