"""The shared expert's products: one matrix that every row is multiplied by, as a grouped matmul of a single group."""

import jax
from jax import lax

from workers.moe.grouped.matmul import Backend, accumulator, precision, rounded


def _rows(a: jax.Array, b: jax.Array, _: jax.Array, transposed: bool) -> jax.Array:
    return _dot(a, b[0], 1, 1 if transposed else 0)


def _outer(a: jax.Array, b: jax.Array, _: jax.Array) -> jax.Array:
    return _dot(a, b, 0, 0)[None]


def _dot(a: jax.Array, b: jax.Array, a_contracted: int, b_contracted: int) -> jax.Array:
    dims = (((a_contracted,), (b_contracted,)), ((), ()))
    sums = lax.dot_general(a, b, dims, precision=precision(a.dtype), preferred_element_type=accumulator(a.dtype))
    return rounded(sums, a.dtype)


DENSE = Backend(rows=_rows, outer=_outer)
