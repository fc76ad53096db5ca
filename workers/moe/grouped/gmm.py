"""Grouped matmul by megablox, JAX's own grouped matmul kernels for the TPU, written in Pallas.

Off a TPU the kernels are interpreted, step by step: right, and far too slow to be timed. The kernels state no precision
of their own, so the default they fall back on is set around them: one pass of the MXU would round float32 to bfloat16.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm as megablox_gmm
from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm as megablox_tgmm

from workers.moe.grouped.matmul import Backend, OuterProduct, precision
from workers.moe.grouped.tiles import Product, Tile, Tiling, complaint


@cache
def gmm(tiling: Tiling, interpret: bool) -> Backend:
    """megablox with these tiles; forward, dlhs and drhs each have their own. bfloat16 and float32 only."""
    return Backend(rows=partial(_rows, tiling, interpret), outer=tgmm(tiling, interpret))


@cache
def tgmm(tiling: Tiling, interpret: bool) -> OuterProduct:
    """The outer product alone, which other backends borrow."""
    return partial(_outer, tiling, interpret)


def _rows(
    tiling: Tiling, interpret: bool, a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool
) -> jax.Array:
    (rows, k), n = a.shape, b.shape[1 if transposed else 2]
    tile = _tile(tiling, interpret, "dlhs" if transposed else "forward", (rows, k, n), a.dtype)
    with jax.default_matmul_precision(precision(a.dtype).name.lower()):
        out = megablox_gmm(
            _whole_tiles(a, tile.m), b, group_sizes, a.dtype, tile, transpose_rhs=transposed, interpret=interpret
        )
    return out[:rows]


def _outer(tiling: Tiling, interpret: bool, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    (rows, k), n = a.shape, b.shape[1]
    tile = _tile(tiling, interpret, "drhs", (rows, k, n), a.dtype)
    with jax.default_matmul_precision(precision(a.dtype).name.lower()):
        return megablox_tgmm(
            _whole_tiles(a, tile.m).T, _whole_tiles(b, tile.m), group_sizes, a.dtype, tile, interpret=interpret
        )


def _whole_tiles(a: jax.Array, rows: int) -> jax.Array:
    """Rows of no group added, for megablox takes whole tiles of rows only."""
    return jnp.pad(a, ((0, -a.shape[0] % rows), (0, 0)))


def _tile(tiling: Tiling, interpret: bool, of: Product, problem: tuple[int, int, int], dtype: jnp.dtype) -> Tile:
    """The tile of one product. Raises ValueError for one that a TPU cannot take; an interpreter takes any."""
    tile = tiling.tile(of, problem, dtype.itemsize)
    if not interpret and (wrong := complaint(of, tile, problem)):
        raise ValueError(wrong)
    return tile
