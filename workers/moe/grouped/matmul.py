"""The contract of a grouped matmul: rows of group g times the matrix of group g.

Rows come sorted by group, and the group sizes sum to the number of rows. Products accumulate in float32 and are rounded
once to the operands' dtype; float32 operands are multiplied at HIGHEST precision. A backend supplies the two products
that the value and both derivatives are made of, so none writes a derivative of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# (a: [rows, k], b: [groups, k, n] or transposed [groups, n, k], group_sizes: [groups], transposed) -> float32 [rows, n]
RowsProduct = Callable[[jax.Array, jax.Array, jax.Array, bool], jax.Array]
# (a: [rows, k], b: [rows, n], group_sizes: [groups]) -> float32 [groups, k, n]
OuterProduct = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Backend(NamedTuple):
    """rows: out[r] = a[r] @ b[group(r)].  outer: out[g] = sum over the rows r of g of a[r] (x) b[r]."""

    rows: RowsProduct
    outer: OuterProduct


def precision(dtype: jnp.dtype) -> lax.Precision:
    """float32 means float32; bfloat16 products are exact in float32 anyway."""
    return lax.Precision.HIGHEST if dtype == jnp.float32 else lax.Precision.DEFAULT


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul(backend: Backend, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """out[r] = a[r] @ b[group(r)]. a: [rows, k], b: [groups, k, n], group_sizes: int32 [groups] -> [rows, n]."""
    return backend.rows(a, b, group_sizes, False).astype(a.dtype)


_Saved = tuple[jax.Array, jax.Array, jax.Array]


def _forward(backend: Backend, a: jax.Array, b: jax.Array, group_sizes: jax.Array) -> tuple[jax.Array, _Saved]:
    return matmul(backend, a, b, group_sizes), (a, b, group_sizes)


def _backward(backend: Backend, saved: _Saved, dout: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    """da[r] = dout[r] @ b[group(r)]^T;  db[g] = sum over the rows r of g of a[r] (x) dout[r]."""
    a, b, group_sizes = saved
    da = backend.rows(dout, b, group_sizes, True)
    db = backend.outer(a, dout, group_sizes)
    return da.astype(a.dtype), db.astype(b.dtype), None


matmul.defvjp(_forward, _backward)
