"""A host's disk is full: at bring-up the host is left out with the reason, under a visit the visit ends with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.failures import Kind
from tests.disk import fill, free
from tests.faults.trial import ENDS_S, Trial
from tests.testbed.accounts import ANN
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.soak]

# Above what a host wants free before it takes a visit (`workers.host.disk.MIN_FREE_BYTES`), and this code on top.
MIB = 160
FOLDER = "/run/small"


@pytest.fixture
def small(bed: Testbed) -> Path:
    return bed["two"].small_disk(FOLDER, MIB, ANN)


def test_disk_full_at_bring_up_leaves_nothing_half_used_and_under_a_visit_ends_it_elsewhere(
    bed: Testbed, trial: Callable[..., Trial], small: Path
) -> None:
    bed["one"].run(["install", "-d", "-o", ANN.name, FOLDER])
    pool = bed.pool_file("small", root=f"{FOLDER}/hillclimb")
    fill(small)
    up = bed.ann.says("pool", "up", "--pool", pool)
    assert (up.returncode, "two" in up.stderr, "No space left" in up.stderr) == (1, True, True), up.stderr
    assert list(small.glob("hillclimb/bundles/*.python")) == []
    free(small)
    up = bed.ann.says("pool", "up", "--pool", pool)
    assert up.returncode == 0, up.stderr
    try:
        # a run's samples are longer than what is left in the last page of a file
        one = trial(pool, groups=2, blocks=1, iters=1500, sleep_s=0.004)
        driver = one.start()
        visit = one.until_a_runner_measures("two").visit
        fill(small)
        assert driver.wait(ENDS_S) == 0, one.said
        one.assert_complete()
        assert one.rows("SELECT state, kind FROM visit WHERE id = ?", visit) == [("failed", Kind.DISK.value)]
        assert {host for _, host, state, _ in one.visits() if state == "finished"} == {"one"}
    finally:
        assert bed.ann.says("pool", "down", "--pool", pool).returncode == 0
