"""The router in the step: three top-k implementations that agree, and gates by each strategy."""

import jax.numpy as jnp
import numpy as np
import pytest

from core.job import TopkJob
from workers.micro.route import largest, route

IMPLS = ["lax", "sort", "argmax"]


def job(**fields) -> TopkJob:
    return TopkJob(**{"tokens": 2, "experts": 4, "topk": 2, "dtype": "float32", **fields})


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_largest_of_any_implementation_is_the_stable_order_of_the_logits(impl, dtype):
    # few distinct values: most rows hold equal logits
    logits = np.random.default_rng(0).integers(-3, 3, (64, 7)).astype(jnp.dtype(dtype))
    values, ids = largest(jnp.asarray(logits), 5, impl)
    expected = np.argsort(-logits.astype(np.float32), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(logits, expected, axis=1))
    assert ids.dtype == jnp.int32


@pytest.mark.parametrize("impl", IMPLS)
def test_largest_of_all_experts_is_a_permutation_of_them(impl):
    _, ids = largest(jnp.asarray([[0.0, -1.0, 2.0]]), 3, impl)
    np.testing.assert_array_equal(ids, [[2, 0, 1]])


# exp of the logits: 8, 2, 4, 1 and 1, 1, 2, 4 of 15 and of 8
LOGITS = jnp.log(jnp.asarray([[8.0, 2.0, 4.0, 1.0], [1.0, 1.0, 2.0, 4.0]]))


@pytest.mark.parametrize(
    ("fields", "gates"),
    [
        ({}, [[8 / 12, 4 / 12], [4 / 6, 2 / 6]]),
        ({"strategy": "top1", "topk": 1}, [[1], [1]]),
        ({"strategy": "softk"}, [[8 / 12, 4 / 12], [4 / 6, 2 / 6]]),
        ({"strategy": "softk", "soft_normalize": False}, [[8 / 15, 4 / 15], [4 / 8, 2 / 8]]),
        # half the temperature squares the odds: 64, 4, 16, 1 of 85 and 1, 1, 4, 16 of 22
        (
            {"strategy": "softk", "temperature": 0.5, "soft_normalize": False},
            [[64 / 85, 16 / 85], [16 / 22, 4 / 22]],
        ),
    ],
)
def test_route_gates_are_those_of_the_strategy(fields, gates):
    ids, found = route(job(**fields), LOGITS)
    np.testing.assert_array_equal(ids, np.asarray([[0, 2], [3, 2]])[:, : found.shape[1]])
    np.testing.assert_allclose(found, gates, rtol=1e-6)
