"""Grouped matmul by `jax.lax.ragged_dot_general`.

On a TPU the product over rows is a kernel. Elsewhere all of it is a dense expansion: time and memory grow with the
number of groups.
"""

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.grouped.matmul import Backend, precision


def _rows(a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool) -> jax.Array:
    contracted = 2 if transposed else 1
    dims = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (contracted,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
    )
    return _general(a, b, group_sizes, dims)


def _outer(a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    dims = lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
    )
    return _general(a, b, group_sizes, dims)


def _general(a: jax.Array, b: jax.Array, group_sizes: jax.Array, dims: lax.RaggedDotDimensionNumbers) -> jax.Array:
    return lax.ragged_dot_general(
        a, b, group_sizes, dims, precision=precision(a.dtype), preferred_element_type=jnp.float32
    )


RAGGED_DOT = Backend(rows=_rows, outer=_outer)
