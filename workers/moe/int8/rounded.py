"""What int8 products are compared with: a product in float32 that rounds its operands wherever the int8 one does."""

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.int8.arithmetic import AUTODIFF
from workers.moe.int8.quantised import quantise_matrices, quantise_rows


@jax.custom_vjp
def rounded_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b with both as int8 can hold them. a: float32 [rows, k], b: float32 [k, n] -> float32 [rows, n].

    Its derivative is straight through, da of a cotangent whose rows are rounded: that, too, is an int8 product.
    """
    return _dot(round_rows(a), round_matrix(b))


_Saved = tuple[jax.Array, jax.Array]


def _forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, _Saved]:
    rounded = round_rows(a), round_matrix(b)
    return _dot(*rounded), rounded


def _backward(saved: _Saved, dout: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    return _dot(round_rows(dout), b.T), _dot(a.T, dout)


rounded_dot.defvjp(_forward, _backward)


def round_rows(a: jax.Array) -> jax.Array:
    """[rows, k] -> what int8 values with a scale for each row can hold of it."""
    return AUTODIFF.real(quantise_rows(a))


def round_matrix(b: jax.Array) -> jax.Array:
    """[k, n] -> what int8 values with one scale can hold of it."""
    return AUTODIFF.real(quantise_matrices(b[None]))[0]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
