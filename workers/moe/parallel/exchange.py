"""Rows sent from every device to every device, as many as each pair needs: `lax.ragged_all_to_all`.

Off TPU and GPU XLA has no such collective; there every pair gets a slot that fits the most it can need, and one
`all_to_all` moves the slots. Both leave the same rows in the same places.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.parallel.devices import AXIS


class Trip(NamedTuple):
    """What is fixed of an exchange: how it is done, and the rows of a device's buffers before and after."""

    native: bool
    rows_in: int
    rows_out: int

    def back(self) -> "Trip":
        return Trip(self.native, self.rows_out, self.rows_in)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def exchange(trip: Trip, a: jax.Array, sizes: jax.Array) -> jax.Array:
    """Send `sizes[i, d]` rows from device i to device d, for all i and d; returns [rows_out, ...], this device's.

    a: [rows_in, ...], on each device the rows for device 0, then those for device 1 ...; sizes: int32
    [devices, devices], equal on all. Rows arrive in the order of their senders; those beyond the last are zero. The
    way back is `trip.back()` with the transposed sizes, and so is the derivative.
    """
    if not a.size:
        return jnp.zeros((trip.rows_out, *a.shape[1:]), a.dtype)
    return (_ragged if trip.native else _slotted)(trip.rows_out, a, sizes)


def _forward(trip: Trip, a: jax.Array, sizes: jax.Array) -> tuple[jax.Array, jax.Array]:
    return exchange(trip, a, sizes), sizes


def _backward(trip: Trip, sizes: jax.Array, dout: jax.Array) -> tuple[jax.Array, None]:
    return exchange(trip.back(), dout, sizes.T), None


exchange.defvjp(_forward, _backward)


def _starts(sizes: jax.Array) -> jax.Array:
    """Where each segment begins, along the last axis."""
    return jnp.cumsum(sizes, axis=-1) - sizes


def _ragged(rows_out: int, a: jax.Array, sizes: jax.Array) -> jax.Array:
    me = lax.axis_index(AXIS)
    out = jnp.zeros((rows_out, *a.shape[1:]), a.dtype)
    return lax.ragged_all_to_all(
        a, out, _starts(sizes)[me], sizes[me], _starts(sizes.T).T[me], sizes[:, me], axis_name=AXIS
    )


def _slotted(rows_out: int, a: jax.Array, sizes: jax.Array) -> jax.Array:
    me, rows = lax.axis_index(AXIS), len(a)
    nth = jnp.arange(rows)
    source = jnp.where(nth < sizes[me][:, None], _starts(sizes)[me][:, None] + nth, rows)
    slots = a.at[source].get(mode="fill", fill_value=0)
    received = lax.all_to_all(slots, AXIS, split_axis=0, concat_axis=0)

    arrived = sizes[:, me]
    place = jnp.arange(rows_out)
    sender = jnp.searchsorted(jnp.cumsum(arrived), place, side="right")
    within = place - _starts(arrived)[jnp.minimum(sender, len(arrived) - 1)]
    flat = jnp.where(sender < len(arrived), sender * rows + within, len(arrived) * rows)
    return received.reshape(len(arrived) * rows, *a.shape[1:]).at[flat].get(mode="fill", fill_value=0)
