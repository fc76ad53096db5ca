"""What actors are told of their hosts, by kind of pool; and a pool of which nothing answers."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.visit import Target
from infra.pool import HostSpec, LocalPool, RayPool, SshPool, Unreachable
from infra.state import HOST_LOCK
from orchestrator.join import configs, join

HOSTS = [HostSpec(name="a", machine="a", target=Target(), selector={})]
RAY = RayPool(kind="ray", address="10.0.0.1:6379")


def test_host_of_a_ray_pool_has_the_lock_that_everybody_on_its_machine_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HILLCLIMB_STATE", raising=False)
    found = configs(RAY, HOSTS)["a"]
    assert (found.lock, found.state) == (HOST_LOCK, "~/.local/state/hillclimb/hosts/a")


@pytest.mark.parametrize("pool", [RAY, LocalPool()])
def test_host_whose_state_is_told_has_its_lock_there(
    pool: LocalPool | RayPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HILLCLIMB_STATE", str(tmp_path))
    found = configs(pool, HOSTS)["a"]
    assert (found.lock, found.state) == ("", str(tmp_path / "hosts" / "a"))


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshPool]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket() as bound:
        # bound, and not listening: whoever connects is refused
        bound.bind(("127.0.0.1", 0))
        host = {"address": "127.0.0.1", "port": bound.getsockname()[1], "accelerator": "cpu"}
        yield SshPool.model_validate({"kind": "ssh", "hosts": {"one": host}})


def test_pool_that_nobody_answers_for_is_not_brought_up(deaf: SshPool) -> None:
    with pytest.raises(Unreachable, match=r"one.*refused") as e, join(deaf, print):
        raise AssertionError("a pool without a host was joined")
    assert e.value.exit_code == 6


def test_pool_that_nobody_answers_for_can_be_looked_at(deaf: SshPool) -> None:
    with join(deaf, print, start=False) as joined:
        assert joined.hosts == []
        assert "refused" in joined.failed["one"]
        assert [thread.name for thread in threading.enumerate() if "relay" in thread.name] == []
