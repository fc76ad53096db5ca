import gc
import time
import weakref

import jax
import numpy as np
import pytest

from workers.bench.timing import CHAIN, wall_chain, wall_sync


@pytest.mark.parametrize("timer", [wall_sync, wall_chain])
def test_timer_collects_no_garbage_while_timing_and_does_again_after(timer):
    seen = []
    timer(lambda: seen.append(gc.isenabled()), 3)
    assert seen == [False] * 3
    assert gc.isenabled()


@pytest.mark.parametrize("timer", [wall_sync, wall_chain])
def test_timer_of_a_call_that_raises_leaves_garbage_collection_on(timer):
    with pytest.raises(ZeroDivisionError):
        timer(lambda: 1 / 0, 1)
    assert gc.isenabled()


@pytest.mark.parametrize("timer", [wall_sync, wall_chain])
def test_timer_drops_what_a_call_returned_before_the_next(timer):
    alive = []

    def call():
        alive.append(sum(ref() is not None for ref in made))
        array = jax.device_put(np.zeros(8), may_alias=False)
        made.append(weakref.ref(array))
        return array

    made: list[weakref.ref] = []
    with jax.transfer_guard("allow"):
        # device_put is an explicit transfer, which the guard lets pass
        timer(call, 3)
    assert alive == [0, 0, 0]


def test_wall_sync_waits_for_the_call():
    wall_ns = wall_sync(lambda: time.sleep(0.02), 2)
    assert len(wall_ns) == 2
    assert min(wall_ns) >= 20_000_000


@pytest.mark.parametrize("timer", [wall_sync, wall_chain])
def test_timer_of_a_call_that_moves_an_argument_is_an_error(timer):
    add = jax.jit(lambda x: x + 1).lower(np.zeros(8, np.float32)).compile()
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        timer(lambda: add(np.zeros(8, np.float32)), 1)


class Device:
    """A clock, and calls that take it: dispatching costs 10 ns, the work 100 ns once it is waited for."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.queued = 0
        self.chains: list[int] = []

    def clock_ns(self) -> int:
        return self.now_ns

    def call(self) -> "Device":
        self.now_ns += 10
        self.queued += 1
        return self

    def block_until_ready(self) -> "Device":
        self.now_ns += 100 * self.queued
        self.chains.append(self.queued)
        self.queued = 0
        return self


@pytest.mark.parametrize(
    ("calls", "chains"), [(0, []), (1, [1]), (10, [10]), (25, [10, 10, 5]), (100, [10] * 10), (101, [10] * 10 + [1])]
)
def test_wall_chain_waits_once_a_chain_and_gives_the_mean_of_its_calls(calls, chains):
    device = Device()
    assert wall_chain(device.call, calls, device.clock_ns) == (110,) * len(chains)
    assert device.chains == chains


def test_wall_chain_sample_is_of_its_own_chain():
    device = Device()

    def slower_from_1000_ns_on():
        device.now_ns += device.now_ns // 1000
        return device.call()

    first, second = wall_chain(slower_from_1000_ns_on, 2 * CHAIN, device.clock_ns)
    # every call of the second chain costs 1 ns more
    assert (first, second) == (110, 111)


def test_wall_sync_waits_for_every_call():
    device = Device()
    assert wall_sync(device.call, 3, device.clock_ns) == (110, 110, 110)
    assert device.chains == [1, 1, 1]
