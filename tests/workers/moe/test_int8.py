"""Quantised arrays, and what is computed of them: values, and derivatives with respect to what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from workers.moe.grouped.ragged_dot import RAGGED_DOT
from workers.moe.int8.arithmetic import AUTODIFF, STRAIGHT_THROUGH
from workers.moe.int8.quantised import dequantise, quantise_matrices, quantise_rows, restore, store
from workers.moe.int8.rounded import rounded_dot

ROWS, K, N, SIZES = 24, 32, 16, (9, 0, 15)
# rows 16 to 23 belong to no group
TAIL = (9, 0, 7)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def operands(dtype="float32", rows=ROWS):
    return (jnp.asarray(normal(rows, K), dtype), jnp.asarray(normal(len(SIZES), K, N, seed=1), dtype))


def grouped(arithmetic, a, b, sizes=SIZES):
    return arithmetic.grouped(RAGGED_DOT, quantise_rows(a), quantise_matrices(b), jnp.array(sizes, jnp.int32))


def with_gradients(f, cotangent, *primals):
    """The value of f, and the derivatives of <f, cotangent>."""

    def both(*primals):
        out, pull = jax.vjp(f, *primals)
        return out, *pull(jnp.asarray(cotangent, out.dtype))

    return [np.asarray(array, np.float32) for array in jax.jit(both)(*primals)]


def off(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def real(quantised):
    return np.asarray(dequantise(store(quantised), jnp.float32))


def per_group(sizes, product):
    """Of the rows of each group, as slices."""
    ends = np.cumsum(sizes)
    return [product(group, slice(end - size, end)) for group, (size, end) in enumerate(zip(sizes, ends, strict=True))]


def test_quantise_rows_rounds_to_nearest_and_halves_to_even():
    rows = quantise_rows(jnp.array([[127, 0.5, 1.5, -2.5, 3.4], [-254, 254, 2, -0.9, 0]]))
    assert rows.values.dtype == jnp.int8
    assert rows.values.tolist() == [[127, 0, 2, -2, 3], [-127, 127, 1, 0, 0]]
    assert rows.scale.tolist() == [1, 2]


def test_quantise_rows_of_bfloat16_lies_within_half_a_step():
    a = jnp.asarray(normal(64, 48), jnp.bfloat16)
    rows = quantise_rows(a)
    step = np.asarray(rows.scale)[:, None]
    assert np.all(np.abs(real(rows) - np.asarray(a, np.float32)) <= 0.5001 * step)
    assert np.abs(rows.values).max(axis=1).tolist() == [127] * 64


def test_quantise_matrices_has_one_scale_for_each():
    b = normal(3, 4, 5) * np.array([1, 10, 100], np.float32)[:, None, None]
    matrices = quantise_matrices(b)
    np.testing.assert_allclose(matrices.scale, np.abs(b).max(axis=(1, 2)) / 127, rtol=1e-6)
    transposed = quantise_matrices(b.transpose(0, 2, 1))
    np.testing.assert_array_equal(transposed.values, matrices.values.transpose(0, 2, 1))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38])
def test_quantise_rows_of_zeros_or_extremes_stays_finite(value):
    with jax.debug_nans(True):
        rows = quantise_rows(jnp.array([[value, 0, -value], [1, 2, 3]]))
    assert np.isfinite(rows.scale).all()
    np.testing.assert_allclose(real(rows)[0], [value, 0, -value], rtol=1e-6, atol=1e-37)
    assert rows.values[1].tolist() == [42, 85, 127]


@pytest.mark.parametrize("arithmetic", [STRAIGHT_THROUGH, AUTODIFF])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_grouped_is_the_exact_integer_product_scaled_and_rounded_once(arithmetic, dtype):
    a, b = operands(dtype)
    rows, matrices = quantise_rows(a), quantise_matrices(b)
    integers = np.concatenate(
        per_group(SIZES, lambda g, of: np.asarray(rows.values, int)[of] @ np.asarray(matrices.values, int)[g])
    )
    scale = np.asarray(rows.scale) * np.repeat(np.asarray(matrices.scale), SIZES)
    out = grouped(arithmetic, a, b)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, jnp.asarray(integers.astype(np.float32) * scale[:, None], dtype))


def test_grouped_straight_through_derivatives_are_those_of_the_rounded_arrays():
    a, b = operands()
    dout = normal(ROWS, N, seed=2)
    rows, matrices, cotangent = real(quantise_rows(a)), real(quantise_matrices(b)), real(quantise_rows(dout))
    _, da, db = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b), dout, a, b)
    assert off(da, np.concatenate(per_group(SIZES, lambda g, of: cotangent[of] @ matrices[g].T))) < 1e-6
    assert off(db, np.stack(per_group(SIZES, lambda _, of: rows[of].T @ dout[of]))) < 1e-6
    assert not db[1].any()


def test_grouped_of_stored_matrices_has_the_same_derivatives_with_carriers_of_zeros():
    a, b = operands()
    stored = store(quantise_matrices(b))

    def of_stored(a, carrier):
        return STRAIGHT_THROUGH.grouped(RAGGED_DOT, quantise_rows(a), restore(stored, carrier), jnp.array(SIZES))

    dout = normal(ROWS, N, seed=2)
    expected = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b), dout, a, b)
    for found, array in zip(with_gradients(of_stored, dout, a, jnp.zeros_like(b)), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_grouped_nan_in_rows_of_no_group_reaches_no_other():
    a, b = operands()
    dout = normal(ROWS, N, seed=2)
    kept = sum(TAIL)
    clean = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b, TAIL), dout, a, b)
    poisoned = with_gradients(
        lambda a, b: grouped(STRAIGHT_THROUGH, a, b, TAIL), np.r_[dout[:kept], 0 * dout[kept:] + np.nan],
        a.at[kept:].set(np.nan), b,
    )  # fmt: skip
    for found, expected, rows in zip(poisoned, clean, (kept, kept, len(SIZES)), strict=True):
        assert np.isfinite(expected[:rows]).all()
        np.testing.assert_array_equal(found[:rows], expected[:rows])


def test_grouped_without_any_rows_in_groups_has_derivatives_of_zero():
    a, b = operands()
    _, _, db = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b, (0, 0, 0)), np.ones((ROWS, N)), a, b)
    assert not db.any()


def test_grouped_autodiff_derivatives_are_those_of_the_scales_alone():
    a, b = operands()
    dout = normal(ROWS, N, seed=2)
    through = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b), dout, a, b)
    naive = with_gradients(lambda a, b: grouped(AUTODIFF, a, b), dout, a, b)
    np.testing.assert_array_equal(naive[0], through[0])
    assert ((naive[1] != 0).sum(axis=1) == 1).all()
    assert ((naive[2] != 0).sum(axis=(1, 2)) == [1, 0, 1]).all()
    assert off(naive[1], through[1]) > 0.5 and off(naive[2], through[2]) > 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_is_what_int8_holds_and_its_derivative_is_straight_through(dtype):
    a, _ = operands(dtype)
    dreal = jnp.asarray(normal(ROWS, K, seed=2), dtype)
    found, da = with_gradients(lambda a: STRAIGHT_THROUGH.real(quantise_rows(a)), dreal, a)
    np.testing.assert_array_equal(found, dequantise(store(quantise_rows(a)), jnp.dtype(dtype)).astype(np.float32))
    np.testing.assert_array_equal(da, np.asarray(dreal, np.float32))
    naive, dnaive = with_gradients(lambda a: AUTODIFF.real(quantise_rows(a)), dreal, a)
    np.testing.assert_array_equal(naive, found)
    assert ((dnaive != 0).sum(axis=1) == 1).all()


def test_grouped_mapped_over_devices_and_checkpointed_has_the_same_derivatives():
    a, b = operands()
    dout = normal(ROWS, N, seed=2)
    expected = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b), dout, a, b)
    rows, whole = PartitionSpec("devices"), PartitionSpec()

    def each(a, b, sizes):
        @jax.checkpoint
        def product(a, b):
            return STRAIGHT_THROUGH.grouped(RAGGED_DOT, quantise_rows(a), quantise_matrices(b), sizes)

        return product(a, b)

    mapped = jax.shard_map(
        each, mesh=Mesh(jax.devices()[:2], ("devices",)), in_specs=(rows, whole, rows), out_specs=rows, check_vma=False
    )
    # 24 rows on 2 devices: the third group is split
    sizes = jnp.array([9, 0, 3, 0, 0, 12], jnp.int32)
    for found, array in zip(with_gradients(lambda a, b: mapped(a, b, sizes), dout, a, b), expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=0, atol=1e-5)


def test_rounded_dot_is_a_grouped_product_of_one_group():
    a, b = operands()
    one, dout = b[:1], normal(ROWS, N, seed=2)
    expected = with_gradients(lambda a, b: grouped(STRAIGHT_THROUGH, a, b, (ROWS,)), dout, a, one)
    found = with_gradients(lambda a, b: rounded_dot(a, b[0]), dout, a, one)
    for array, other in zip(found, expected, strict=True):
        assert off(array, other) < 1e-6


def mlp(product, x, w1, w3, w2):
    gated = jax.nn.silu(product(x, w1)) * product(x, w3)
    return product(gated, w2)


def test_mlp_of_int8_products_is_close_to_the_one_of_rounded_products():
    """Not equal: a last bit moves some values across the edge to the next int8."""
    arrays = [normal(48, 64), *(normal(1, 64, 40, seed=s) / 8 for s in (1, 2)), normal(1, 40, 64, seed=3) / 40**0.5]
    dout = normal(48, 64, seed=4)
    found = with_gradients(lambda *p: mlp(lambda a, b: grouped(STRAIGHT_THROUGH, a, b, (48,)), *p), dout, *arrays)
    expected = with_gradients(lambda *p: mlp(lambda a, b: rounded_dot(a, b[0]), *p), dout, *arrays)
    assert max(off(array, other) for array, other in zip(found, expected, strict=True)) < 3e-3
