"""Grouped matmul by `jax.lax.ragged_dot_general`.

On a TPU the product over rows is a kernel, int8 included, and the outer product has none: it becomes a dense expansion,
as many times the work as there are groups, so an outer product from elsewhere can take its place. Off a TPU all of it
is a dense expansion.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
from jax import lax

from workers.moe.grouped.matmul import Backend, OuterProduct, accumulator, precision, rounded

# `jax.lax.ragged_dot_general`, or what has its signature.
General = Callable[..., jax.Array]


def by(general: General) -> Backend:
    """Both products by one function with the signature of `jax.lax.ragged_dot_general`."""
    return Backend(rows=partial(_rows, general), outer=partial(_outer, general))


@cache
def with_outer(outer: OuterProduct) -> Backend:
    """`RAGGED_DOT` with another outer product."""
    return RAGGED_DOT._replace(outer=outer)


def _rows(general: General, a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool) -> jax.Array:
    contracted = 2 if transposed else 1
    dims = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (contracted,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
    )
    return _product(general, a, b, group_sizes, dims)


def _outer(general: General, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    dims = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
    )
    return _product(general, a, b, group_sizes, dims)


def _product(
    general: General, a: jax.Array, b: jax.Array, group_sizes: jax.Array, dims: lax.RaggedDotDimensionNumbers
) -> jax.Array:
    sums = general(
        a,
        b,
        group_sizes=group_sizes,
        ragged_dot_dimension_numbers=dims,
        precision=precision(a.dtype),
        preferred_element_type=accumulator(a.dtype),
    )
    return rounded(sums, a.dtype)


RAGGED_DOT = by(lax.ragged_dot_general)
# The same products, differentiated by JAX.
AUTODIFF = RAGGED_DOT._replace(autodiff=True)
