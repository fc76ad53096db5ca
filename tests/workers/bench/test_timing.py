import gc
import time
import weakref

import jax
import numpy as np
import pytest

from workers.bench.timing import wall_sync


def test_wall_sync_collects_no_garbage_while_timing_and_does_again_after():
    seen = []
    wall_sync(lambda: seen.append(gc.isenabled()), 3)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_wall_sync_call_that_raises_leaves_garbage_collection_on():
    with pytest.raises(ZeroDivisionError):
        wall_sync(lambda: 1 / 0, 1)
    assert gc.isenabled()


def test_wall_sync_drops_what_a_call_returned_before_the_next():
    alive = []

    def call():
        alive.append(sum(ref() is not None for ref in made))
        array = jax.device_put(np.zeros(8), may_alias=False)
        made.append(weakref.ref(array))
        return array

    made: list[weakref.ref] = []
    with jax.transfer_guard("allow"):
        # device_put is an explicit transfer, which the guard lets pass
        wall_sync(call, 3)
    assert alive == [0, 0, 0]


def test_wall_sync_waits_for_the_call():
    wall_ns = wall_sync(lambda: time.sleep(0.02), 2)
    assert len(wall_ns) == 2
    assert min(wall_ns) >= 20_000_000


def test_wall_sync_call_that_moves_an_argument_is_an_error():
    add = jax.jit(lambda x: x + 1).lower(np.zeros(8, np.float32)).compile()
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        wall_sync(lambda: add(np.zeros(8, np.float32)), 1)
