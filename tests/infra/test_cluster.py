"""Ray on real machines: brought up once, found again, repaired, and left alone while somebody uses it."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from core.protocol import HostHeld
from infra.bundle import Bundle, bundle_of
from infra.cluster import HEAD, NOT_UP, RAYLET, Cluster, PoolInUse, check
from infra.parallel import side_by_side
from infra.pool import HOST_LABEL, RAYLET_LABEL, PoolError, SshPool, read_pool
from infra.ssh import SshError
from infra.state import HOST_LOCK
from infra.upkeep import State, down, status
from tests.processes import is_gone, wait_until
from tests.testbed.accounts import ANN
from tests.testbed.machine import Machine
from tests.testbed.testbed import Testbed

pytestmark = pytest.mark.slow

ROOT = f"{ANN.home}/.local/state/hillclimb"
HELD = HostHeld(user="bob", controller="desk:7", since="noon")

# A process of the pool's that has the machine's lock open, as an actor has that obeys a ledger.
# Whoever starts it waits for the end of its output.
USER = """
import os, sys, time
lock = open(sys.argv[1], "w")
lock.write(sys.argv[2])
lock.flush()
os.close(1)
time.sleep(3600)
"""

# What Ray itself says of its nodes, asked by a driver on the head's machine.
NODES = """
import json, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([{"labels": n["Labels"], "resources": n["Resources"]} for n in ray.nodes() if n["Alive"]]))
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with Testbed(tmp_path_factory.mktemp("bed"), "one", "two") as bed, pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - bed.ann.environment.keys():
            patch.delenv(name)
        for name, value in bed.ann.environment.items():
            patch.setenv(name, value)
        yield bed


@pytest.fixture(scope="module")
def code() -> Bundle:
    """The same for all, whatever is edited meanwhile."""
    return bundle_of("")


class Told(list[str]):
    """What a cluster said."""

    def starts(self) -> list[str]:
        return sorted(line.partition(" started in ")[0] for line in self if " started in " in line)


@pytest.fixture
def up(bed: Testbed, code: Bundle) -> Iterator[Callable[..., tuple[Cluster, Told]]]:
    """Brings the pool up, with these keys in its file."""
    made: list[Cluster] = []

    def bring(**keys: object) -> tuple[Cluster, Told]:
        told = Told()
        made.append(Cluster(pool_of(bed, **keys), code, told.append))
        made[-1].up()
        return made[-1], told

    yield bring
    for cluster in made:
        cluster.close()


def pool_of(bed: Testbed, **keys: object) -> SshPool:
    pool = read_pool(str(bed.pool_file("pool", **keys)))
    assert isinstance(pool, SshPool)
    return pool


def raylets(machine: Machine) -> list[int]:
    """The pids of Ray's servers on a machine."""
    return sorted(process.pid for process in machine.processes("raylet/raylet "))


@contextmanager
def used(bed: Testbed, host: str) -> Iterator[int]:
    """While it lasts, bob uses the host."""
    command = [sys.executable, "-c", USER, HOST_LOCK, HELD.model_dump_json()]
    marked = ["env", f"RAY_AUTH_TOKEN_PATH={ROOT}/token"]
    bed[host].run(["setsid", "--fork", *marked, *command], ANN)
    wait_until(
        lambda: bed[host].outside(HOST_LOCK).exists() and bed[host].outside(HOST_LOCK).read_text(), what="the lock"
    )
    (user,) = [process.pid for process in bed[host].processes("lock.write")]
    try:
        yield user
    finally:
        if not is_gone(user):
            os.kill(user, signal.SIGKILL)
        wait_until(lambda: is_gone(user), what="the end of the user")
        bed[host].outside(HOST_LOCK).unlink()


def states(bed: Testbed) -> dict[str, State]:
    return {found.name: found.state for found in status(pool_of(bed))}


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_up_from_nothing_makes_one_ray_of_labelled_hosts_and_again_does_nothing(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    down(pool_of(bed), True, print)
    assert raylets(bed["one"]) == raylets(bed["two"]) == []
    first, told = up()
    assert told.starts() == [f"one: Ray's {HEAD}", f"one: Ray's {RAYLET}", f"two: Ray's {RAYLET}"]
    assert first.failed == {}
    assert [spec.name for spec in first.hosts] == ["one", "two"]
    assert first.address.startswith(f"{bed['one'].address}:")
    words = {host: first.revive(host) for host in ("one", "two")}

    python = first.actor_options("one")["runtime_env"]["py_executable"]
    driver = ["env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={first.token}", python, "-c", NODES, first.address]
    nodes = json.loads(bed["one"].run(driver, ANN).splitlines()[-1])
    labels = [node["labels"] for node in nodes if HOST_LABEL in node["labels"]]
    assert len(nodes) == 3
    assert {each[HOST_LABEL]: each[RAYLET_LABEL] for each in labels} == words
    assert {each["hillclimb-machine"] for each in labels} == {"one", "two"}
    # the head's node runs nothing
    assert sorted(node["resources"].get("CPU", 0.0) for node in nodes) == [0.0, 1.0, 1.0]

    processes = {name: raylets(bed[name]) for name in ("one", "two")}
    second, told = up()
    assert told == []
    assert {name: raylets(bed[name]) for name in ("one", "two")} == processes
    assert (second.sent_bytes("one"), second.sent_bytes("two")) == (0, 0)
    assert {host: second.revive(host) for host in ("one", "two")} == words
    assert second.address == first.address


def test_up_puts_one_token_on_all_machines_and_rays_patience_beyond_the_hosts(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    up()
    tokens = [bed[name].outside(f"{ROOT}/token") for name in ("one", "two")]
    assert len({path.read_text() for path in tokens}) == 1
    assert [path.stat().st_mode & 0o777 for path in tokens] == [0o600, 0o600]
    scratch = bed["two"].run(["find", "/tmp", "-maxdepth", "1", "-name", "hillclimb-*", "-printf", "%m %f"])
    assert scratch.startswith(f"700 hillclimb-{ANN.number}-")
    for pid in (*raylets(bed["one"]), *raylets(bed["two"])):
        found = environment(pid)
        assert (found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN_PATH"]) == ("token", f"{ROOT}/token")
        assert int(found["RAY_health_check_failure_threshold"]) * 3 >= 1800
        assert int(found["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 1800


def test_token_of_a_host_that_is_another_is_replaced(bed: Testbed, up: Callable[..., tuple[Cluster, Told]]) -> None:
    up()
    right = bed["one"].outside(f"{ROOT}/token").read_text()
    wrong = bed["two"].outside(f"{ROOT}/token")
    wrong.write_text("f" * 64)
    cluster, _ = up()
    assert cluster.failed == {}
    assert wrong.read_text() == right
    assert wrong.stat().st_mode & 0o777 == 0o600


def test_raylet_that_is_gone_is_started_again_with_another_word(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    cluster, told = up()
    before = cluster.revive("two")
    assert cluster.revive("two") == before
    (raylet,) = raylets(bed["two"])
    os.kill(raylet, signal.SIGKILL)
    told.clear()
    after = cluster.revive("two")
    assert after != before
    assert told.starts() == ["two: Ray's raylet"]
    assert raylets(bed["two"]) != [raylet]
    assert cluster.revive("two") == after


def test_revive_of_a_host_without_sshd_says_so_and_again_when_it_is_back_finds_its_raylet(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    cluster, _ = up()
    before = cluster.revive("two")
    bed["two"].kill_sshd()
    try:
        with pytest.raises(SshError, match="two"):
            cluster.revive("two")
    finally:
        bed["two"].start_sshd()
    assert cluster.revive("two") == before


def test_head_that_is_gone_is_started_again_by_the_relay_and_its_raylets_are_replaced(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    cluster, told = up()
    address, words = cluster.address, {host: cluster.revive(host) for host in ("one", "two")}
    assert bed["one"].end("gcs_server")
    assert states(bed) == {"one": State.STRAY, "two": State.STRAY}
    told.clear()
    relay = cluster.relay()
    try:
        wait_until(lambda: bed["one"].processes("orchestrator.relay"), what="the relay")
        (process,) = bed["one"].processes("orchestrator.relay")
        assert environment(process.pid)["PYTHONPATH"] == f"{ROOT}/bundles/{cluster.paths('one').bundle}"
    finally:
        relay.close()
    wait_until(lambda: bed["one"].processes("orchestrator.relay") == [], what="the end of the relay")
    # where it was: others look for it there
    assert cluster.address == address, told
    assert not words.items() & {host: cluster.revive(host) for host in ("one", "two")}.items()
    assert told.starts() == ["one: Ray's head", "one: Ray's raylet", "two: Ray's raylet"]
    assert states(bed) == {"one": State.UP, "two": State.UP}


def test_other_deadlines_restart_what_nobody_uses_and_wait_for_who_does(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    cluster, _ = up()
    words = {host: cluster.revive(host) for host in ("one", "two")}
    with used(bed, "two"):
        busy, told = up(orphan_s=400.0)
        # the head is everybody's: it waits, too
        assert told.starts() == ["one: Ray's raylet"]
        assert [line for line in told if "keeps the orphan_s" in line and "bob (desk:7)" in line]
        assert busy.revive("two") == words["two"]
        assert busy.revive("one") != words["one"]


def test_head_of_another_ray_is_not_taken_from_who_uses_it(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    up()
    record = bed["one"].outside(f"{ROOT}/run/head.json")
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"info": said["info"] | {"ray": "2.59.0"}}))
    with used(bed, "two"), pytest.raises(PoolInUse, match=r"another ray, and two: bob \(desk:7\) has it") as refused:
        up()
    assert refused.value.exit_code == 6
    cluster, told = up()
    assert "one: Ray's head" in told.starts()
    assert cluster.failed == {}


def test_one_host_that_does_not_answer_is_left_out_and_the_head_that_does_not_is_an_error(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    bed["two"].kill_sshd()
    try:
        cluster, told = up()
        assert [spec.name for spec in cluster.hosts] == ["one"]
        assert list(cluster.failed) == ["two"]
        assert "sshd" in cluster.failed["two"]
        assert f"two: {cluster.failed['two']}" in told
        # somebody whom it answers may use it
        _, told = up(orphan_s=400.0)
        assert told.starts() == ["one: Ray's raylet"]
        assert [line for line in told if "keeps the orphan_s" in line and "two: it does not answer" in line]
        with pytest.raises(PoolError, match="Ray's head is to run on two"):
            up(head="two")
        with pytest.raises(SshError, match="two"):
            check(pool_of(bed, head="two"))
    finally:
        bed["two"].start_sshd()
    check(pool_of(bed, head="two"))


def test_one_machine_by_two_names_is_refused_with_nothing_changed(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    config = bed.ann.ssh / "config"
    config.write_text(f"Host other\n  HostName {bed['one'].address}\n")
    try:
        up(hosts={"one": {}})
        hosts = {"one": {}, "two": {"address": "other"}}
        with pytest.raises(PoolError, match=r"hosts\.two and hosts\.one are one machine .*machine = "):
            up(hosts=hosts)
        before = raylets(bed["one"])
        with pytest.raises(PoolError, match=r"(one and two|two and one) have one directory as their root, .*`root`"):
            up(hosts={name: own | {"machine": "m"} for name, own in hosts.items()})
        assert raylets(bed["one"]) == before
    finally:
        config.unlink()


def test_machine_that_ssh_reaches_at_its_loopback_is_refused_beside_others(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    known = bed.ann.ssh / "known_hosts"
    before = known.read_text()
    known.write_text(f"{before}127.0.0.1 {bed['two'].host_key}\n")
    try:
        tunnel = {"address": "127.0.0.1", "jump": f"{ANN.name}@{bed['two'].address}"}
        cluster, _ = up(hosts={"one": {}, "two": tunnel})
        assert "SSH reaches it at 127.0.0.1, where no other machine does" in cluster.failed["two"]
    finally:
        known.write_text(before)


def test_host_that_does_not_reach_the_head_is_left_out_with_the_reason(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    up()
    assert bed["two"].end("raylet/raylet ")
    bed["two"].run(["ip", "route", "add", "blackhole", f"{bed['one'].address}/32"])
    try:
        cluster, _ = up()
        assert "it does not reach Ray's head at" in cluster.failed["two"]
    finally:
        bed["two"].run(["ip", "route", "del", "blackhole", f"{bed['one'].address}/32"])
    cluster, _ = up()
    assert cluster.failed == {}


def test_scratch_directory_that_others_made_first_is_refused(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    up()
    name = bed["two"].run(["find", "/tmp", "-maxdepth", "1", "-name", "hillclimb-*-*"]).strip()
    assert bed["two"].end("raylet/raylet ")
    bed["two"].run(["rm", "-r", name])
    bed["two"].run(["mkdir", "-m", "777", name])
    try:
        cluster, _ = up()
        assert f"{name} belongs to others, or lets them in" in cluster.failed["two"]
    finally:
        bed["two"].run(["rmdir", name])


def test_attach_starts_nothing_and_says_what_is_not_up(bed: Testbed, code: Bundle) -> None:
    pool = pool_of(bed)
    down(pool, True, print)
    with closing(Cluster(pool, code, print)) as cluster:
        cluster.attach()
        assert (cluster.hosts, cluster.failed) == ([], {"one": NOT_UP, "two": NOT_UP})
        with closing(Cluster(pool_of(bed, hosts={"one": {}}), code, print)) as half:
            half.up()
        cluster.attach()
        assert [spec.name for spec in cluster.hosts] == ["one"]
        assert cluster.failed == {"two": NOT_UP}
    assert raylets(bed["two"]) == []


def test_attach_with_other_code_puts_nothing_there_and_runs_what_the_hosts_have(
    bed: Testbed, code: Bundle, up: Callable[..., tuple[Cluster, Told]]
) -> None:
    first, _ = up()
    edited, told = code._replace(id="e" * 64), Told()
    with closing(Cluster(pool_of(bed), edited, told.append)) as cluster:
        cluster.attach()
        assert ([spec.name for spec in cluster.hosts], cluster.failed, told) == (["one", "two"], {}, [])
        for host in ("one", "two"):
            assert cluster.revive(host) == first.revive(host)
            assert (cluster.paths(host), cluster.actor_options(host)) == (first.paths(host), first.actor_options(host))
            assert cluster.sent_bytes(host) == 0
            assert not bed[host].outside(f"{ROOT}/bundles/{edited.id}").exists()
            # as long as this Ray lives its code is not taken for unused
            agent = cluster._stations[host].agent
            agent.prune([], 0, 0.0)
            assert agent.exists(f"bundles/{code.id}")
        relay = cluster.relay()
        assert bed["one"].processes("orchestrator.relay")
        relay.close()


def test_two_who_bring_a_pool_up_at_once_get_one_ray(bed: Testbed, code: Bundle) -> None:
    pool = pool_of(bed)
    down(pool, True, print)
    with closing(Cluster(pool, code, print)) as ours, closing(Cluster(pool, code, print)) as theirs:
        assert side_by_side({"ours": ours.up, "theirs": theirs.up}) == {"ours": None, "theirs": None}
        assert ours.failed == theirs.failed == {}
        assert ours.address == theirs.address
        assert [ours.revive(host) for host in ("one", "two")] == [theirs.revive(host) for host in ("one", "two")]
    # the head's own node, and one for each host
    assert (len(raylets(bed["one"])), len(raylets(bed["two"]))) == (2, 1)


def test_down_is_refused_while_somebody_uses_a_host_and_forced_leaves_only_files(
    bed: Testbed, up: Callable[..., tuple[Cluster, Told]], tmp_path: Path
) -> None:
    gone = str(tmp_path / "{name} {machine}")
    pool = pool_of(bed, release=["touch", gone])
    cluster, _ = up(release=["touch", gone])
    with used(bed, "two"):
        assert {found.name: (found.state, found.reason) for found in status(pool)} == {
            "one": (State.UP, ""),
            "two": (State.IN_USE, "bob (desk:7) has it since noon"),
        }
        with pytest.raises(PoolInUse, match=r"two: bob \(desk:7\) has it since noon: .*--force"):
            down(pool, False, print)
        assert raylets(bed["two"])
        assert list(tmp_path.iterdir()) == []
        endings = {ending.name: ending for ending in down(pool, True, print)}
    assert {name: ending.ended for name, ending in endings.items()} == {"one": ("raylet", "head"), "two": ("raylet",)}
    assert all(ending.released and not ending.trouble for ending in endings.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one one", "two two"]
    for name in ("one", "two"):
        assert bed[name].processes("ray") == []
        assert bed[name].run(["find", "/tmp", "-maxdepth", "1", "-name", "hillclimb-*-*"]) == ""
        assert endings[name].kept["bundles"] > 1e5
    assert {found.state for found in status(pool)} == {State.DOWN}
    # a controller that was there all the time does not bring it up again
    with pytest.raises(PoolError, match="somebody took the pool down"):
        cluster.revive("two")
    with pytest.raises(PoolError, match="somebody took the pool down"):
        cluster.relay()
    assert bed["one"].processes("ray") == bed["two"].processes("ray") == []


def test_down_of_a_silent_host_neither_ends_nor_releases_it_unless_forced(bed: Testbed, tmp_path: Path) -> None:
    pool = pool_of(bed, release=["touch", str(tmp_path / "{name}")])
    bed["two"].kill_sshd()
    try:
        calm = {ending.name: ending for ending in down(pool, False, print)}
        assert (calm["one"].released, calm["two"].released) == (True, False)
        assert "sshd" in calm["two"].trouble
        assert [path.name for path in tmp_path.iterdir()] == ["one"]
        assert all(ending.released for ending in down(pool, True, print))
    finally:
        bed["two"].start_sshd()
