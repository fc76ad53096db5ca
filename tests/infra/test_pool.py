"""Pools as files describe them: hosts, where SSH goes, what they must have, what replaces them."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.visit import Platform, Target
from infra.attach import check
from infra.pool import (
    HOST_LABEL,
    HostSpec,
    LocalPool,
    Machine,
    PoolError,
    RayPool,
    SshHost,
    SshPool,
    Unreachable,
    read_pool,
)
from infra.state import state_dir, token_file

HOSTS = {"a": SshHost(address="10.0.0.1"), "b": SshHost(address="10.0.0.2")}


def ssh_pool(**fields: object) -> SshPool:
    return SshPool(**({"kind": "ssh", "accelerator": "v5p-8", "hosts": HOSTS} | fields))


@pytest.mark.parametrize("name", ["no-such-pool", "."])
def test_a_pool_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(PoolError, match="neither `local` nor a pool file"):
        read_pool(name)


def test_the_local_pool_is_one_host_of_four_devices() -> None:
    assert read_pool("local") == LocalPool(hosts=1, devices=4, exclusive=True)


def test_ssh_pool_of_addresses_alone_leaves_the_rest_to_ssh_config_and_starts_on_its_first_host() -> None:
    pool = ssh_pool()
    assert pool.machines() == {
        "a": Machine(name="a", address="10.0.0.1", user="", port=None, key="", jump="", python=""),
        "b": Machine(name="b", address="10.0.0.2", user="", port=None, key="", jump="", python=""),
    }
    assert pool.head_machine() == pool.machines()["a"]
    target = Target(platform=Platform.TPU, devices=4, kind="TPU v5")
    assert pool.specs() == [
        HostSpec(name="a", machine="a", target=target, selector={HOST_LABEL: "a"}, labels={}),
        HostSpec(name="b", machine="b", target=target, selector={HOST_LABEL: "b"}, labels={}),
    ]


def test_ssh_host_has_its_own_before_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mara")
    all_pools = {"user": "u", "port": 22, "key": "~/k", "jump": "j", "python": "/p", "accelerator": "cpu"}
    all_hosts = {"user": "U", "port": 23, "key": "/K", "jump": "J:1", "python": "/P", "accelerator": "cuda-2"}
    own = SshHost(address="x", machine="box", labels={"rack": "r1"}, **all_hosts)
    pool = ssh_pool(hosts={"own": own, "pools": SshHost(address="x")}, **all_pools)
    assert pool.machines() == {
        "own": Machine(name="own", address="x", user="U", port=23, key="/K", jump="J:1", python="/P"),
        "pools": Machine(name="pools", address="x", user="u", port=22, key="/home/mara/k", jump="j", python="/p"),
    }
    own_spec, pools_spec = pool.specs()
    assert (own_spec.machine, own_spec.target.devices, own_spec.target.platform) == ("box", 2, Platform.CUDA)
    assert own_spec.labels == {"rack": "r1"}
    assert (pools_spec.machine, pools_spec.target.devices, pools_spec.target.platform) == ("pools", 4, Platform.CPU)


@pytest.mark.parametrize(
    ("head", "machine"),
    {
        "b": Machine(name="b", address="10.0.0.2", user="u", port=22, jump="j"),
        "10.0.0.9": Machine(name="head", address="10.0.0.9", user="u", port=22, jump="j"),
        "mara@box": Machine(name="head", address="box", user="mara", port=22, jump="j"),
        "mara@box:2222": Machine(name="head", address="box", user="mara", port=2222, jump="j"),
        "10.0.0.2:2222": Machine(name="head", address="10.0.0.2", user="u", port=2222, jump="j"),
        "[fd00::9]:2222": Machine(name="head", address="fd00::9", user="u", port=2222, jump="j"),
        "fd00::9": Machine(name="head", address="fd00::9", user="u", port=22, jump="j"),
    }.items(),
)
def test_ssh_pools_head_is_a_host_or_a_machine_of_its_own(head: str, machine: Machine) -> None:
    assert ssh_pool(head=head, user="u", port=22, jump="j").head_machine() == machine


def test_ssh_pools_command_is_filled_in_for_its_host_and_stays_a_list() -> None:
    hosts = {
        "a": SshHost(address="10.0.0.1", user="it's", port=22, machine="tpu-1"),
        "b": SshHost(address="10.0.0.2"),
    }
    pool = ssh_pool(
        hosts=hosts,
        user="u",
        port=2222,
        reallocate=("/my bin/re", "{user}@{address}:{port}", "{name} {machine}", "{{}}"),
    )
    assert pool.arguments(pool.reallocate, "a") == ["/my bin/re", "it's@10.0.0.1:22", "a tpu-1", "{}"]
    assert pool.arguments(pool.reallocate, "b") == ["/my bin/re", "u@10.0.0.2:2222", "b b", "{}"]
    assert pool.arguments(pool.release, "a") == []


def test_ssh_pool_empty_texts_say_nothing() -> None:
    nothing = dict.fromkeys(("user", "key", "jump", "python"), "")
    said = ssh_pool(user="u", key="/k", jump="j", python="/p", index="", head="", preemption="")
    hosts = {"a": SshHost(address="x", machine="", accelerator="", **nothing), "b": SshHost(address="y")}
    pool = said.model_copy(update={"hosts": hosts})
    assert pool.machines()["a"] == pool.machines()["b"].model_copy(update={"name": "a", "address": "x"})
    assert [spec.machine for spec in pool.specs()] == ["a", "b"]
    assert ssh_pool(**nothing) == ssh_pool()


# Any path a file system takes, but for characters that no line shows, and the colon, which no search path takes.
PATHS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=":"), max_size=30)


@given(st.tuples(PATHS, PATHS, PATHS))
@example(('my keys/it\'s "mine"', "`x`; rm -rf '", "bin/re \\ {x}"))
def test_ssh_pool_paths_with_spaces_and_quotes_come_through_as_they_are(paths: tuple[str, str, str]) -> None:
    key, root, program = (f"/{path}" for path in paths)
    command = [program.replace("{", "{{").replace("}", "}}"), "{name}", "a 'b' \"c\""]
    file = {"kind": "ssh", "accelerator": "cpu", "key": key, "root": root, "reallocate": command}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in file.items()]
    with tempfile.NamedTemporaryFile("w", prefix='it\'s a "pool" ', suffix=".toml", encoding="utf-8") as there:
        there.write("\n".join([*lines, '[hosts.a]\naddress = "x"', ""]))
        there.flush()
        pool = read_pool(there.name)
    assert isinstance(pool, SshPool)
    assert pool.root == root
    assert pool.machines()["a"].key == str(Path(key))
    assert pool.arguments(pool.reallocate, "a") == [program, "a", "a 'b' \"c\""]


def test_a_ray_pool_without_a_cluster_or_a_token_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(PoolError, match="needs the cluster's token"):
        check(RayPool(kind="ray", address="127.0.0.1:1"))
    with pytest.raises(PoolError, match="no such file"):
        check(RayPool(kind="ray", address="127.0.0.1:1", token=str(tmp_path / "none")))
    token = token_file(tmp_path / "token")
    with pytest.raises(Unreachable, match="nothing answers"):
        check(RayPool(kind="ray", address="127.0.0.1:1", token=str(token)))
    token.chmod(0o644)
    with pytest.raises(PoolError, match="chmod 600"):
        check(RayPool(kind="ray", address="127.0.0.1:1", token=str(token)))


def test_a_token_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token")
    first = path.read_text()
    assert len(first) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert token_file(path).read_text() == first


def test_the_state_directory_is_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HILLCLIMB_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir() == tmp_path / "hillclimb"
    monkeypatch.setenv("HILLCLIMB_STATE", str(tmp_path / "own"))
    assert state_dir() == tmp_path / "own"
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
