"""Every host is set aside: the driver says why, waits without work, and ends as blocked."""

import subprocess
import time
from collections.abc import Callable

import pytest

from core.failures import Kind
from tests.cluster import Cluster
from tests.faults.trial import Trial
from tests.processes import cpu_s, wait_until

pytestmark = pytest.mark.slow

# The second of two that look at once finds libtpu's lock taken; the ladder it climbs then ends where the first did.
NO_ACCELERATOR = {Kind.TPU_MISSING.value, Kind.TPU_BUSY.value}

NO_HOST_S = 12.0

# A driver that waits looks twice a second at its ledger and its hosts; one that plans in circles takes a whole core.
IDLE_SHARE = 0.2

# Any job that touches the accelerator: the pool says TPU, and there is none here.
MATRIX = """
[experiment]
id = "trial"
goal = "What becomes of a pool whose accelerators are not there?"
[job]
kind = "topk"
tokens = 64
experts = 4
topk = 2
[axes]
seed = [1, 2]
[baseline]
seed = 1
[measure]
blocks = 2
"""


def test_driver_whose_hosts_are_all_set_aside_ends_as_blocked_and_says_why(
    cluster: Cluster, trial: Callable[..., Trial], record_property: Callable[[str, object], None]
) -> None:
    pool = cluster.pool_file("no-tpu", accelerator='"v5p-8"', no_host_s=NO_HOST_S)
    one = trial(pool)
    one.matrix.write_text(MATRIX)
    driver = one.start()
    for host in ("one", "two"):
        one.until_said(f"{host} is quarantined")
    share = share_of_a_core(driver)
    record_property("share_of_a_core", round(share, 3))
    assert driver.returncode == 6, one.said
    assert share < IDLE_SHARE
    assert f"no usable host for {NO_HOST_S:g} s: one is quarantined (" in one.said.replace("\n", " ")
    # nothing was tried again and again, and no job pays for it
    assert len(one.visits()) <= 2
    assert one.rows("SELECT id FROM block WHERE accepted_visit NOTNULL OR closed NOTNULL") == []
    assert {kind for _, _, _, kind in one.visits()} <= NO_ACCELERATOR
    assert one.rows("SELECT id FROM visit WHERE state IN ('leased', 'running')") == []
    one.assert_consistent()


def share_of_a_core(process: subprocess.Popen[str]) -> float:
    """Processor time by time, from now until its end."""
    before_s, began = cpu_s(process.pid), time.monotonic()
    share = 0.0

    def is_over() -> bool:
        nonlocal share
        over = process.poll() is not None
        if not over and (passed_s := time.monotonic() - began) > 1:
            share = (cpu_s(process.pid) - before_s) / passed_s
        return over

    wait_until(is_over, 120, "the end of the driver")
    return share
