"""The contract of a grouped matmul, over every backend: values and both derivatives against a loop over groups."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.bench.census import census
from workers.moe.grouped.blocked import BLOCKED, LENGTHS
from workers.moe.grouped.gmm import gmm
from workers.moe.grouped.matmul import Backend, matmul
from workers.moe.grouped.ragged_dot import AUTODIFF, RAGGED_DOT
from workers.moe.grouped.tiles import GENERIC, Tile, Tiling

# Tiles far below the problem, so that rows, contraction and columns all end within one.
SMALL_TILES = Tiling(GENERIC, Tile(16, 8, 16), Tile(32, 16, 8), Tile(16, 16, 8))
BACKENDS = {
    "ragged_dot": RAGGED_DOT,
    "ragged_dot_autodiff": AUTODIFF,
    "blocked": BLOCKED,
    "gmm": gmm(SMALL_TILES, interpret=True),
}
try:
    from workers.moe.grouped.tokamax import by_platform
except ImportError:
    pass
else:
    BACKENDS["tokamax"] = by_platform("cpu")

TOLERANCE = {"float32": 1e-6, "bfloat16": 4e-3}
K, N = 20, 36
# Group sizes, and the number of rows: what lies past the sum belongs to no group.
GROUPS = {
    "empty_groups_and_rows_of_none": ([0, 5, 0, 20, 3, 0], 37),
    "one_takes_every_row": ([0, 33, 0], 33),
    "one_row": ([1], 1),
    "no_row_in_any": ([0, 0], 10),
}


class Expected(NamedTuple):
    """In float64: out [rows, n], da [rows, k], db [groups, k, n]; 0 in rows of no group."""

    out: np.ndarray
    da: np.ndarray
    db: np.ndarray


def expected(a: np.ndarray, b: np.ndarray, dout: np.ndarray, sizes: list[int]) -> Expected:
    of = Expected(np.zeros(dout.shape), np.zeros(a.shape), np.zeros(b.shape))
    ends = np.cumsum(sizes)
    for group, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        rows = slice(end - size, end)
        of.out[rows], of.da[rows] = a[rows] @ b[group], dout[rows] @ b[group].T
        of.db[group] = a[rows].T @ dout[rows]
    return of


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def value_and_derivatives(backend: Backend, a, b, dout, sizes):
    def run(a, b, dout, group_sizes):
        out, derivative = jax.vjp(lambda a, b: matmul(backend, a, b, group_sizes), a, b)
        return out, *derivative(dout)

    return jax.jit(run)(a, b, dout, jnp.asarray(sizes, jnp.int32))


def assert_contract(backend: Backend, sizes: list[int], rows: int, dtype: str) -> None:
    """Rows of no group hold NaN, in the operand and in the cotangent."""
    a, b, dout = drawn((rows, K), dtype, 0), drawn((len(sizes), K, N), dtype, 1), drawn((rows, N), dtype, 2)
    want = expected(*(np.asarray(array, np.float64) for array in (a, b, dout)), sizes)
    total = sum(sizes)
    found = value_and_derivatives(backend, a.at[total:].set(jnp.nan), b, dout.at[total:].set(jnp.nan), sizes)
    for array, exact, valid in zip(found, want, (total, total, len(sizes)), strict=True):
        assert array.shape == exact.shape
        assert array.dtype == jnp.dtype(dtype)
        off = np.linalg.norm(np.asarray(array, np.float64)[:valid] - exact[:valid])
        assert off <= TOLERANCE[dtype] * np.linalg.norm(exact[:valid])
    for group, size in enumerate(sizes):
        assert size or not np.any(found[2][group])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "gmm"])
def test_matmul_any_groups_keeps_the_contract(backend, groups, dtype):
    assert_contract(BACKENDS[backend], *GROUPS[groups], dtype)


# Interpreted, a case takes seconds.
@pytest.mark.parametrize(
    ("groups", "dtype"),
    [
        ("empty_groups_and_rows_of_none", "float32"),
        ("empty_groups_and_rows_of_none", "bfloat16"),
        ("one_row", "float32"),
        ("no_row_in_any", "float32"),
    ],
)
def test_matmul_by_gmm_keeps_the_contract(groups, dtype):
    assert_contract(BACKENDS["gmm"], *GROUPS[groups], dtype)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.integers(0, 40))
def test_blocked_groups_of_any_length_keep_the_contract(sizes, tail):
    assert_contract(BLOCKED, sizes, sum(sizes) + max(tail, 1 - sum(sizes)), "float32")


def test_blocked_rows_of_no_group_are_not_visited():
    a, b = jnp.full((1024, K), jnp.nan).at[:300].set(1.0), jnp.ones((2, K, N))
    found = np.asarray(BLOCKED.rows(a, b, jnp.array([100, 200], jnp.int32), False))
    # the last block may reach beyond its group, by less than the shortest one
    np.testing.assert_array_equal(found[:300], K)
    np.testing.assert_array_equal(found[300 + LENGTHS[-1] :], 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
def test_rows_of_int8_are_exact_sums_of_s8_products(backend, transposed):
    sizes, rows, k = [3, 0, 17, 40], 64, 2048
    rng = np.random.default_rng(0)
    a = rng.integers(-127, 128, (rows, k), np.int8)
    b = rng.integers(-127, 128, (len(sizes), k, N), np.int8)
    a[:3], b[0] = 127, 127  # 2048 x 127 x 127 is beyond float32's exact integers

    def run(a, b, group_sizes):
        return BACKENDS[backend].rows(a, b, group_sizes, transposed)

    given = (a, b.swapaxes(1, 2) if transposed else b, np.array(sizes, np.int32))
    compiled = jax.jit(run).lower(*given).compile()
    found, counted = compiled(*given), census(compiled)
    assert sum(counted.int8_dots.values())
    assert not counted.widened_dots
    group = np.repeat(np.arange(len(sizes)), sizes)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(
        np.asarray(found)[: sum(sizes)],
        np.einsum("rk,rkn->rn", a[: sum(sizes)].astype(np.int64), b.astype(np.int64)[group]),
    )


def test_gmm_under_remat_and_shard_map_equals_plain():
    a, b, dout = drawn((32, K), "float32", 0), drawn((4, K, N), "float32", 1), drawn((32, N), "float32", 2)
    sizes = jnp.array([4, 12, 10, 6], jnp.int32)
    mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.PartitionSpec("device")

    def derivatives(a, b, dout, sizes):
        product = jax.checkpoint(lambda a, b: matmul(BACKENDS["gmm"], a, b, sizes))
        out, derivative = jax.vjp(product, a, b)
        return out, *derivative(dout)

    # each device holds 16 rows and 2 groups
    mapped = jax.shard_map(derivatives, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    found = jax.jit(mapped)(a, b, dout, sizes)
    want = expected(*(np.asarray(array, np.float64) for array in (a, b, dout)), [4, 12, 10, 6])
    for array, exact in zip(found, want, strict=True):
        np.testing.assert_allclose(array, exact, rtol=1e-4, atol=1e-5)
