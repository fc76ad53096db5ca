"""The clock of a measurement: `wall_sync`, each call dispatched and waited for."""

import gc
import time
from collections.abc import Callable
from typing import Any

import jax


def wall_sync(call: Callable[[], Any], calls: int) -> tuple[int, ...]:
    """Nanoseconds from the dispatch of each call until all it returns is there.

    What a call returned is dropped before the next one, outside the clock. Garbage collection is off meanwhile, and a
    transfer that a call would need is an error: its arguments lie where it wants them.
    """
    wall_ns: list[int] = []
    gc.collect()
    gc.disable()
    try:
        with jax.transfer_guard("disallow"):
            for _ in range(calls):
                began = time.perf_counter_ns()
                returned = jax.block_until_ready(call())
                wall_ns.append(time.perf_counter_ns() - began)
                del returned
    finally:
        gc.enable()
    return tuple(wall_ns)
