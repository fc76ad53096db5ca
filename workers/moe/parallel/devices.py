"""What one device says to the others inside a block, each with the derivative that makes per-device gradients exact.

The block is differentiated on each device by itself, so a collective's derivative is what *that* device needs to know.
`share` and `total` are each other's transpose, known as the f and g operators of tensor parallelism (Shoeybi et al.,
Megatron-LM, 2019, section 3): neither sends what every device already holds.
"""

import jax
from jax import lax

# The one axis of the mesh: experts or tokens are split over it.
AXIS = "devices"


@jax.custom_vjp
def share(a: jax.Array) -> jax.Array:
    """What every device holds enters work that differs by device: nothing is sent, derivatives are summed."""
    return a


share.defvjp(lambda a: (a, None), lambda _, da: (lax.psum(da, AXIS),))


@jax.custom_vjp
def total(a: jax.Array) -> jax.Array:
    """The sum over devices, on every device; its derivative is there already."""
    return lax.psum(a, AXIS)


total.defvjp(lambda a: (lax.psum(a, AXIS), None), lambda _, da: (da,))


def gather_tokens(a: jax.Array) -> jax.Array:
    """[tokens / devices, ...] -> [tokens, ...]: every device gets all; derivatives are summed and scattered."""
    return lax.all_gather(a, AXIS, axis=0, tiled=True)


def scatter_sum_tokens(a: jax.Array) -> jax.Array:
    """[tokens, ...] -> [tokens / devices, ...]: the sum over devices, each keeping its own tokens."""
    return lax.psum_scatter(a, AXIS, scatter_dimension=0, tiled=True)
