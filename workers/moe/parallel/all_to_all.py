"""Expert parallelism by `ragged_all_to_all`: each row travels to the device of its expert and its output comes back.

A device sorts the assignments of its own tokens by expert, so the rows for each device lie together; what arrives is
sorted once more, because every sender's rows come sorted by themselves. Senders hold consecutive tokens and arrive in
order, so a group's rows are in token order here as anywhere.
"""

import jax
import jax.numpy as jnp
from jax import lax

from workers.moe.composition import Composition
from workers.moe.dispatch import dispatch
from workers.moe.parallel.devices import AXIS
from workers.moe.parallel.exchange import Trip, exchange
from workers.moe.permute import combine_unweighted, rows_of
from workers.moe.stages import Stage, State, pack_rows, pack_stage


def home_stage(of: Composition) -> Stage:
    """Pack this device's tokens for all experts."""
    return pack_stage(of.job, of.home_packing)


def exchange_stage(of: Composition) -> Stage:
    """dispatch, packed -> arrived: rows of this device's experts; arrived_ids: their experts; sizes: of all parcels."""
    trip = _trip(of)

    def run(state: State) -> State:
        counts = lax.all_gather(state["dispatch"].group_sizes, AXIS).reshape(of.shards, of.shards, of.local_experts)
        sizes = counts.sum(axis=2)
        travelling = {"packed": state["packed"]}
        if "row_weights" in state:
            travelling["row_weights"] = state["row_weights"]
        return {
            "home": state["dispatch"],
            "sizes": sizes,
            "arrived": jax.tree.map(lambda rows: exchange(trip, rows, sizes), travelling),
            "arrived_ids": _experts_of_rows(counts[:, lax.axis_index(AXIS)], of.rows)[:, None],
        }

    return Stage("exchange", run)


def regroup_stage(of: Composition) -> Stage:
    """arrived -> dispatch, packed: the rows of this device's experts, those of one expert together."""

    def run(state: State) -> State:
        where = dispatch(state["arrived_ids"], of.packing)
        arrived = state["arrived"]
        regrouped = {"dispatch": where, "packed": pack_rows(arrived["packed"], where, of.packing)}
        if "row_weights" in arrived:
            regrouped["row_weights"] = rows_of(arrived["row_weights"], where.token, of.packing)
        return regrouped

    return Stage("regroup", run)


def back_stage(of: Composition) -> Stage:
    """outputs -> outputs: the rows of this device's tokens, in the order they were packed in."""
    trip = _trip(of).back()

    def run(state: State) -> State:
        arrived = combine_unweighted(state["outputs"], state["dispatch"], of.packing)
        return {"outputs": exchange(trip, arrived, state["sizes"].T), "dispatch": state["home"]}

    return Stage("back", run)


def _trip(of: Composition) -> Trip:
    return Trip(of.native, rows_in=of.home_packing.rows, rows_out=of.rows)


def _experts_of_rows(counts: jax.Array, rows: int) -> jax.Array:
    """The expert of each arrived row, `experts` beyond the last. counts: [senders, experts] -> int32 [rows]."""
    experts = counts.shape[1]
    parcel = jnp.searchsorted(jnp.cumsum(counts.reshape(-1)), jnp.arange(rows), side="right")
    return jnp.where(parcel < counts.size, parcel % experts, experts).astype(jnp.int32)
