"""What is computed of quantised arrays, in two arithmetics: with straight-through derivatives, and with JAX's own.

Their values are the same. Straight through, derivatives are those of the arrays that values and scales stand for, as if
nothing had been rounded. JAX's own see a rounding and a cast to integers: only the scales, each of which hangs on a
single element, get any. They are wrong, and are here to be measured and to be refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from workers.moe.grouped.matmul import Backend
from workers.moe.int8.quantised import Quantised, Stored, dequantise, quantise_rows, store


class Arithmetic(NamedTuple):
    """grouped: out[r] = a[r] @ b[group(r)], of (backend, a, b, group_sizes) -> [rows, n] in the carriers' dtype.
             a: rows [rows, k], b: matrices [groups, k, n], group_sizes: int32 [groups]. The sum of int8 x int8 in
             int32, exact up to k = 133 000, times both scales in float32, rounded once. Rows past the sum of the group
             sizes are unspecified, and no others depend on them. `backend.rows` must have int8 products.
    real:    the array of values * scale, in the carrier's dtype: fake quantisation.
    """

    grouped: Callable[[Backend, Quantised, Quantised, jax.Array], jax.Array]
    real: Callable[[Quantised], jax.Array]


def _grouped(backend: Backend, a: Quantised, b: Quantised, group_sizes: jax.Array) -> jax.Array:
    return _product(backend, store(a), store(b), group_sizes, False).astype(a.carrier.dtype)


def _real(quantised: Quantised) -> jax.Array:
    return dequantise(store(quantised), quantised.carrier.dtype)


def _product(backend: Backend, a: Stored, b: Stored, group_sizes: jax.Array, transposed: bool) -> jax.Array:
    """Of a's rows with b's matrices, or with their transposes, which have the same scales -> float32 [rows, n]."""
    sums = backend.rows(a.values, b.values, group_sizes, transposed)
    # The group of each row by comparing with every group's end: elementwise work, where a search is a loop of gathers.
    ends, row = jnp.cumsum(group_sizes), jnp.arange(len(a.values), dtype=group_sizes.dtype)
    group = jnp.searchsorted(ends, row, side="right", method="compare_all")
    scale = a.scale * b.scale.at[group].get(mode="clip")
    return sums.astype(jnp.float32) * scale[:, None]


_Saved = tuple[Stored, Stored, jax.Array]


def _grouped_forward(backend: Backend, a: Quantised, b: Quantised, group_sizes: jax.Array) -> tuple[jax.Array, _Saved]:
    return _grouped(backend, a, b, group_sizes), (store(a), store(b), group_sizes)


def _grouped_backward(backend: Backend, saved: _Saved, dout: jax.Array) -> tuple[Quantised, Quantised, None]:
    """da[r] = dout[r] @ b[group(r)]^T, an int8 product of dout's quantised rows and the values that b has anyway;
    db[g] = sum over the rows r of g of a[r] (x) dout[r], in dout's dtype."""
    a, b, group_sizes = saved
    da = _product(backend, store(quantise_rows(dout)), b, group_sizes, True)
    db = backend.outer(dequantise(a, dout.dtype), dout, group_sizes)
    return _to_carrier(da.astype(dout.dtype)), _to_carrier(db.astype(dout.dtype)), None


def _real_forward(quantised: Quantised) -> tuple[jax.Array, None]:
    return _real(quantised), None


def _real_backward(_: None, dreal: jax.Array) -> tuple[Quantised]:
    return (_to_carrier(dreal),)


def _to_carrier(derivative: jax.Array) -> Quantised:
    none: Any = None
    return Quantised(derivative, none, none)


_grouped_straight_through = jax.custom_vjp(_grouped, nondiff_argnums=(0,))
_grouped_straight_through.defvjp(_grouped_forward, _grouped_backward)
_real_straight_through = jax.custom_vjp(_real)
_real_straight_through.defvjp(_real_forward, _real_backward)

STRAIGHT_THROUGH = Arithmetic(_grouped_straight_through, _real_straight_through)
AUTODIFF = Arithmetic(_grouped, _real)
