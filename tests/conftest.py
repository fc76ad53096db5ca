"""What more than one room's tests need: the command, a state directory of one's own, and a Ray to attach to."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import BIN, Cluster
from tests.processes import end_session, session_of, wait_until

__all__ = ["BIN", "Cluster", "end_session", "session_of", "wait_until"]

# How the reason of a skip begins where a machine or user lacks what a test needs.
NOT_TESTED = "NOT TESTED: "


@pytest.fixture(scope="session")
def hillclimb() -> str:
    return str(BIN / "hillclimb")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own, in the environment."""
    path = tmp_path / "state"
    monkeypatch.setenv("HILLCLIMB_STATE", str(path))
    monkeypatch.delenv("HILLCLIMB_LEDGER", raising=False)
    return path


@pytest.fixture(scope="module")
def attached_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray cluster that outlives controllers: the pool file that attaches to it. Its hosts' state is its own too."""
    cluster = Cluster(tmp_path_factory.mktemp("ray"), head_host="h")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILLCLIMB_STATE", str(cluster.state))
        try:
            yield cluster.pool
        finally:
            cluster.end()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every worker begins with its part of the slow ones, so that none is left with the longest at the end.

    pytest-xdist gives each worker one contiguous share at first. A folder's slow tests stay together: they share
    clusters.
    """
    hands: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    folders: dict[Path, list[pytest.Item]] = {}
    quick = [item for item in items if "slow" not in item.keywords]
    for item in items:
        if "slow" in item.keywords:
            folders.setdefault(item.path.parent, []).append(item)
    for folder in sorted(folders.values(), key=len, reverse=True):
        min(hands, key=len).extend(folder)
    shares = []
    left = len(items)
    for number, hand in enumerate(hands):
        share = left // (len(hands) - number)
        filling = max(0, share - len(hand))
        shares += [*hand, *quick[:filling]]
        quick = quick[filling:]
        left -= share
    items[:] = [*shares, *quick]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this machine or user could not test is said at the end, once for each reason."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, count in sorted(reasons.items()):
        if NOT_TESTED in reason:
            what = reason.partition(NOT_TESTED)[2]
            terminalreporter.write_line(f"NOT TESTED, {count} test{'s' * (count > 1)}: {what}", yellow=True)
