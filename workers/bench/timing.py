"""The clocks of a measurement: `wall_sync`, each call waited for, and `wall_chain`, a chain of calls waited for once.

Both drop what a call returned before the next one is made, keep garbage collection off meanwhile, and make a transfer
that a call would need an error: its arguments lie where it wants them. A sample is always of one call, in nanoseconds.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

# Dispatching a call costs 20 to 160 us of Python, which a call shorter than 2 ms would show. Ten calls queued behind
# each other hide all but the first dispatch, and leave ten samples of a hundred calls: enough for a median.
CHAIN = 10


def wall_sync(
    call: Callable[[], Any], calls: int, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> tuple[int, ...]:
    """Nanoseconds from the dispatch of each call until all it returns is there."""
    return _chains(call, [1] * calls, clock_ns)


def wall_chain(
    call: Callable[[], Any], calls: int, clock_ns: Callable[[], int] = time.perf_counter_ns
) -> tuple[int, ...]:
    """Nanoseconds a call takes in a chain of CHAIN, from the first dispatch until all the last call returns is there.

    One sample a chain, its time divided by its calls; calls that do not fill a chain make a shorter last one. A device
    runs what is dispatched to it in order, so the last call is there when all are.
    """
    whole, rest = divmod(calls, CHAIN)
    return _chains(call, [CHAIN] * whole + [rest] * (rest > 0), clock_ns)


def _chains(call: Callable[[], Any], lengths: list[int], clock_ns: Callable[[], int]) -> tuple[int, ...]:
    """The mean time of a call in chains of these lengths, one after another."""
    wall_ns: list[int] = []
    with _undisturbed():
        for length in lengths:
            began = clock_ns()
            for _ in range(length - 1):
                call()
            last = jax.block_until_ready(call())
            wall_ns.append((clock_ns() - began) // length)
            del last
    return tuple(wall_ns)


@contextmanager
def _undisturbed() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        with jax.transfer_guard("disallow"):
            yield
    finally:
        gc.enable()
