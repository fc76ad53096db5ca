"""The link to a host is cut and healed: what ran there runs on, and is heard of when the link is back."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import Cluster
from tests.faults.trial import Trial
from tests.processes import wait_until
from tests.testbed.switch import namespace
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

# As on a pool: slower than a host's own clocks, because a raylet that was declared dead takes its actor with it.
RAY = {"RAY_health_check_failure_threshold": "60", "RAY_gcs_rpc_server_reconnect_timeout_s": "1800"}

HOSTS = ("one", "two")

SUSPECT_S = 5.0
ELSEWHERE_S = 25.0
# What the machine that runs these tests may take longer.
GRACE_S = 5.0

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with Testbed(tmp_path_factory.mktemp("bed"), *HOSTS) as bed:
        yield bed


@pytest.fixture(scope="module")
def cluster(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, each with the network of a machine."""

    def network(host: str) -> tuple[str, ...]:
        return namespace(bed[host].pid) if host in HOSTS else ()

    cluster = Cluster(tmp_path_factory.mktemp("cut"), address=bed.switch.address, settings=RAY, inside=network)
    try:
        for host in HOSTS:
            cluster.start(host, address=bed[host].address)
        yield cluster
    finally:
        cluster.end()


def cut_while_measuring(bed: Testbed, trial: Trial, host: str) -> tuple[int, float]:
    visit = trial.until_a_runner_measures(host).visit
    bed[host].cut()
    return visit, time.monotonic()


def until_suspect(trial: Trial, host: str, since: float) -> float:
    trial.until_said(f"{host} is suspect")
    suspect_s = time.monotonic() - since
    assert suspect_s < SUSPECT_S + GRACE_S
    return round(suspect_s, 2)


def test_link_cut_for_30_s_costs_no_run_while_the_other_host_is_busy(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    one = trial(groups=2, blocks=1, sleep_s=12.0)
    driver = one.start()
    one.until_a_runner_measures("two")
    _, since = cut_while_measuring(bed, one, "one")
    record_property("suspect_s", until_suspect(one, "one", since))
    wait_until(lambda: time.monotonic() > since + 30, 60)
    bed["one"].heal()
    healed = time.monotonic()
    assert driver.wait(400) == 0, one.said
    record_property("done_after_heal_s", round(time.monotonic() - healed, 2))
    one.assert_complete()
    assert [state for _, _, state, _ in one.visits()] == ["finished", "finished"]
    record_property("runs_lost", len(one.rows("SELECT id FROM run WHERE outcome <> 'ok'")))
    record_property("taken_back", len(one.decisions("taken back")))


def test_link_cut_for_120_s_sends_the_block_elsewhere_and_hears_of_the_first_visit_later(
    bed: Testbed, trial: Callable[..., Trial], record_property: Record
) -> None:
    # one group, so that the other host may be free when the block is; enough blocks to be at work when the link is back
    one = trial(blocks=24, sleep_s=2.0)
    driver = one.start()
    visit, since = cut_while_measuring(bed, one, "one")
    (block,) = one.rows("SELECT block FROM visit WHERE id = ?", visit)[0]
    record_property("suspect_s", until_suspect(one, "one", since))
    one.until("SELECT 1 FROM visit WHERE block = ? AND id > ?", block, visit)
    elsewhere_s = time.monotonic() - since
    record_property("elsewhere_s", round(elsewhere_s, 2))
    # the other host may have begun a visit just before
    assert elsewhere_s < ELSEWHERE_S + GRACE_S + 10
    wait_until(lambda: time.monotonic() > since + 120, 150)
    assert driver.poll() is None, one.said
    bed["one"].heal()
    healed = time.monotonic()
    one.until("SELECT 1 FROM visit WHERE host = 'one' AND id > ?", visit)
    record_property("host_at_work_after_heal_s", round(time.monotonic() - healed, 2))
    assert driver.wait(400) == 0, one.said
    one.assert_complete()
    ((first, _, state, kind), *_) = [row for row in one.visits() if row[0] == visit]
    record_property("first_visit", f"{state} {kind}")
    assert (first, state) == (visit, "superseded")
    assert one.rows("SELECT DISTINCT outcome FROM run WHERE visit = ?", visit) == [("ok",)]
