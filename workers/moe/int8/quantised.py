"""Arrays as int8 values with float32 scales: array ~ values * scale, symmetric, -127 to 127.

A quantised array carries along the array it stands for, for derivatives to flow to. What holds values and scales alone
is stored.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Symmetric: -128 is left unused.
LARGEST = 127
# The scale of an array of zeros. No quotient by it leaves the range of an int8, and none is NaN.
SMALLEST_SCALE = float(jnp.finfo(jnp.float32).tiny)


class Stored(NamedTuple):
    """Rows [rows, k] or matrices [groups, k, n], with one scale for each row or each matrix.

    values: int8
    scale:  float32 [rows] or [groups], the largest magnitude / 127
    """

    values: jax.Array
    scale: jax.Array


class Quantised(NamedTuple):
    """What `Stored` holds, and the array it stands for.

    carrier: that array, in the job's dtype. No value computed of a Quantised reads it: derivatives flow to it
    """

    carrier: jax.Array
    values: jax.Array
    scale: jax.Array


def quantise_rows(a: jax.Array) -> Quantised:
    """One scale for each row. a: [rows, k]."""
    return restore(_quantise(a), a)


def quantise_matrices(b: jax.Array) -> Quantised:
    """One scale for each matrix. b: [groups, k, n]."""
    return restore(_quantise(b), b)


def _quantise(a: jax.Array) -> Stored:
    """To the nearest value; of two as near, the even one."""
    wide = a.astype(jnp.float32)
    largest = jnp.max(jnp.abs(wide), axis=tuple(range(1, a.ndim)))
    scale = jnp.maximum(largest / LARGEST, SMALLEST_SCALE)
    return Stored(jnp.round(wide / _beside(scale, a)).astype(jnp.int8), scale)


def store(quantised: Quantised) -> Stored:
    """Leave out the array it stands for."""
    return Stored(quantised.values, quantised.scale)


def restore(stored: Stored, carrier: jax.Array) -> Quantised:
    """Let stored values stand for an array. To differentiate with respect to it zeros will do: it is not read."""
    return Quantised(carrier, stored.values, stored.scale)


def dequantise(stored: Stored, dtype: jnp.dtype) -> jax.Array:
    """values * scale, rounded once to `dtype`."""
    return (stored.values.astype(jnp.float32) * _beside(stored.scale, stored.values)).astype(dtype)


def _beside(scale: jax.Array, array: jax.Array) -> jax.Array:
    return scale.reshape(-1, *(1,) * (array.ndim - 1))
