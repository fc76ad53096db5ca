"""One cluster of two hosts for all tests here, and trials on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.faults.trial import Trial


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, `one` and `two`, beside a head that is none. Its raylets are left as they are found."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start("one", "two")
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def trial(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Trial]]:
    """Makes trials on the cluster; ends what they left, also on its hosts."""
    made: list[Trial] = []

    def make(pool: Path | None = None, **shape: object) -> Trial:
        made.append(Trial(tmp_path / str(len(made)), cluster.environment, pool or cluster.pool, **shape))
        return made[-1]

    yield make
    for one in made:
        one.end()
    cluster.free()
