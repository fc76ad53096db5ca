"""A pool whose hosts have SSH and a Python and nothing else: environments from a package index on their network."""

import time
from collections.abc import Callable

import pytest

from tests.faults.trial import Trial
from tests.testbed.testbed import Testbed
from tests.wheelhouse import Index, wheels

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1800)]


def test_pool_comes_up_from_nothing_and_measures_and_a_second_up_fetches_nothing(
    bed: Testbed, trial: Callable[..., Trial], record_property: Callable[[str, object], None]
) -> None:
    with Index(wheels(), address=bed.switch.address) as index:
        pool = bed.pool_file("nothing", python=None, index=index.url, root="~/nothing")
        since = time.monotonic()
        up = bed.ann.says("pool", "up", "--pool", pool)
        assert up.returncode == 0, up.stderr
        record_property("up_s", round(time.monotonic() - since, 1))
        one = trial(pool, groups=2, blocks=1, sleep_s=0.2)
        assert one.finish() == 0, one.said
        record_property("up_to_end_of_first_run_s", round(time.monotonic() - since, 1))
        one.assert_complete()
        assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
        fetched = len(index.fetched)
        assert fetched > 0
        since = time.monotonic()
        again = bed.ann.says("pool", "up", "--pool", pool)
        record_property("second_up_s", round(time.monotonic() - since, 1))
        assert again.returncode == 0, again.stderr
        assert len(index.fetched) == fetched
        assert "sent" not in again.stderr
        assert bed.ann.says("pool", "down", "--pool", pool).returncode == 0
