"""A pool of machines that have only SSH and Python: brought up, measured on, looked at and taken down."""

from collections.abc import Callable, Iterator

import pytest

from tests.faults.trial import Trial
from tests.testbed.accounts import ANN
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

TAKEN = ("core", "infra", "orchestrator", "workers", "ray", "jax", "numpy", "json", "typing", "asyncio", "secrets")


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


@pytest.fixture
def crowded(bed: Testbed) -> Iterator[Testbed]:
    """Everywhere ann's home, where logins begin, has modules called as ours, Ray's and Python's own."""
    files = [machine.outside(f"{ANN.home}/{name}.py") for machine in bed.machines.values() for name in TAKEN]
    for file in files:
        file.write_text("raise SystemExit('a module of the home directory was imported')")
    yield bed
    for file in files:
        file.unlink()


def test_modules_in_the_home_of_a_host_are_not_imported(crowded: Testbed, trial: Callable[..., Trial]) -> None:
    pool = crowded.pool_file("crowded", root="~/crowded")
    one = trial(pool, groups=2, blocks=1, sleep_s=0.2)
    assert one.finish() == 0, one.said
    one.assert_complete()
    assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
    down = crowded.ann.says("pool", "down", "--pool", pool)
    assert down.returncode == 0, down.stderr
