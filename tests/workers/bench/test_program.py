import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.failures import Kind
from workers.bench.bench import JobFault
from workers.bench.program import lower

X = np.ones((8, 8), np.float32)


def double(x):
    return {"y": jnp.sin(x) * 2}


def test_lower_same_computation_under_other_names_has_the_same_fingerprint():
    @jax.jit
    def inner(array):
        return jnp.sin(array)

    @jax.jit
    def renamed(array):
        return jnp.sin(array)

    first = lower(lambda x: {"y": inner(x) * 2}, (X,))

    def step(array):
        # other lines, other names

        return {"z": renamed(array) * 2}

    assert first.fingerprint == lower(step, (X,)).fingerprint


@pytest.mark.parametrize(
    "other", [lambda x: {"y": jnp.sin(x) * 3}, lambda x: {"y": jnp.cos(x) * 2}, lambda x: {"y": jnp.sin(x.T) * 2}]
)
def test_lower_another_computation_has_another_fingerprint(other):
    assert lower(double, (X,)).fingerprint != lower(other, (X,)).fingerprint


def test_lower_another_shape_has_another_fingerprint():
    assert lower(double, (X,)).fingerprint != lower(double, (X[:4],)).fingerprint


@pytest.mark.parametrize("captured", [np.arange(257.0, dtype=np.float32), jnp.arange(257.0)])
def test_lower_captured_constant_above_1_kib_is_refused(captured):
    with pytest.raises(JobFault, match="1028 bytes") as refused:
        lower(lambda x: x + jax.jit(lambda y: y * captured)(x), (np.ones(257, np.float32),))
    assert refused.value.kind is Kind.COMPILE_ERROR


def test_lower_small_constant_or_one_value_repeated_is_accepted():
    small = np.arange(256.0, dtype=np.float32)
    lower(lambda x: x + small + jnp.ones(256), (small,))
    lower(lambda x: x + np.ones(4096, np.float32), (np.ones(4096, np.float32),))


def test_compile_without_a_cache_is_not_cached():
    assert lower(double, (X,)).compile()[1] is False
