"""The contract of a grouped matmul: rows of group g times the matrix of group g.

Rows come sorted by group. Group sizes sum to at most the number of rows: the rows past the sum belong to no group. A
product leaves there whatever it likes, NaN included, and reads nothing of what they hold. Any group may be empty, all
of them too.

Products accumulate in float32 and are rounded once to the operands' dtype; float32 operands are multiplied at HIGHEST
precision. Where a backend has int8 products, int8 operands give their exact int32 sums. A backend supplies the two
products that the value and both derivatives are made of, so none writes a derivative of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# (a: [rows, k], b: [groups, k, n] or transposed [groups, n, k], group_sizes: int32 [groups], transposed) -> [rows, n]
RowsProduct = Callable[[jax.Array, jax.Array, jax.Array, bool], jax.Array]
# (a: [rows, k], b: [rows, n], group_sizes: int32 [groups]) -> [groups, k, n]
OuterProduct = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Backend(NamedTuple):
    """rows: out[r] = a[r] @ b[group(r)].  outer: out[g] = sum over the rows r of g of a[r] (x) b[r], 0 without rows.

    autodiff: the derivative of `matmul` is JAX's own of `rows`, and not made of these products. Compared by the
    identity of its functions: whoever makes a backend makes it once.
    """

    rows: RowsProduct
    outer: OuterProduct
    autodiff: bool = False


def precision(dtype: jnp.dtype) -> lax.Precision:
    """float32 means float32; bfloat16 products are exact in float32 anyway."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT


def accumulator(dtype: jnp.dtype) -> jnp.dtype:
    """What products of this dtype are summed in."""
    return jnp.dtype(jnp.int32 if dtype == jnp.int8 else jnp.float32)


def rounded(sums: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Sums of products of operands of this dtype, as the contract returns them: rounded to it, int32 as they are."""
    return sums if dtype == jnp.int8 else sums.astype(dtype)


def matmul(backend: Backend, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """out[r] = a[r] @ b[group(r)]. a: [rows, k], b: [groups, k, n], group_sizes: int32 [groups] -> [rows, n]."""
    product = _rows if backend.autodiff else _rows_with_our_derivative
    return product(backend, a, b, group_sizes)


def _rows(backend: Backend, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    return backend.rows(a, b, group_sizes, False)


_Saved = tuple[jax.Array, jax.Array, jax.Array]


def _forward(backend: Backend, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> tuple[jax.Array, _Saved]:
    return _rows(backend, a, b, group_sizes), (a, b, group_sizes)


def _backward(backend: Backend, saved: _Saved, dout: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """da[r] = dout[r] @ b[group(r)]^T;  db[g] = sum over the rows r of g of a[r] (x) dout[r]."""
    a, b, group_sizes = saved
    return backend.rows(dout, b, group_sizes, True), backend.outer(a, dout, group_sizes), None


_rows_with_our_derivative = jax.custom_vjp(_rows, nondiff_argnums=(0,))
_rows_with_our_derivative.defvjp(_forward, _backward)
