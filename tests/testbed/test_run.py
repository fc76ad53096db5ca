"""A pool of machines that have only SSH and Python: brought up, measured on, looked at and taken down."""

from collections.abc import Callable

import pytest

from tests.faults.trial import Trial
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow


def test_matrix_ends_complete_with_both_hosts_at_work(bed: Testbed, trial: Callable[..., Trial]) -> None:
    one = trial(groups=2, blocks=2, sleep_s=0.5)
    assert one.finish() == 0, one.said
    one.assert_complete()
    assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
    assert {state for _, _, state, _ in one.visits()} == {"finished"}
    # what was measured is this code, and the ledger says which
    (bundle,) = one.rows("SELECT DISTINCT bundle FROM visit")
    assert one.rows("SELECT id FROM bundle") == [bundle]
    for machine in bed.machines.values():
        assert machine.outside(f"/home/ann/.local/state/hillclimb/bundles/{bundle[0]}/workers/runner.py").exists()
