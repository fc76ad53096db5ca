"""Pool files: what is wrong is said with key, value and fix, before anything is changed."""

from pathlib import Path

import pytest

from infra.cluster import check
from infra.pool import LocalPool, PoolError, RayPool, read_pool
from infra.state import state_dir, token_file

BAD = {
    'kind = "rai"': ["kind = 'rai'", "local or ray"],
    "hosts = 2": ["kind", "local or ray"],
    'kind = "local"\nhost = 2': ["host", "did you mean hosts"],
    'kind = "local"\nhosts = "two"': ["hosts = 'two'", "integer"],
    'kind = "local"\nhosts = 0': ["hosts = 0", "greater"],
    'kind = "local"\ndevices = 1.5': ["devices = 1.5", "integer"],
    'kind = "ray"': ["address is missing"],
    'kind = "ray"\naddres = "a:1"': ["addres", "did you mean address"],
    'kind = "ray"\naddress = "a:1"\nplatform = "gpu"': ["platform = 'gpu'", "'cuda'"],
    "kind = ray": ["not TOML"],
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=list(BAD))
def test_a_bad_pool_file_is_refused_with_its_key_value_and_fix(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "pool.toml"
    path.write_text(text)
    with pytest.raises(PoolError) as refused:
        read_pool(str(path))
    assert all(words in str(refused.value) for words in [str(path), *said]), str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["no-such-pool", "."])
def test_a_pool_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(PoolError, match="neither `local` nor a pool file"):
        read_pool(name)


def test_the_local_pool_is_one_host_of_four_devices() -> None:
    assert read_pool("local") == LocalPool(hosts=1, devices=4, exclusive=True)


def test_a_ray_pool_without_a_cluster_a_token_or_a_good_address_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(PoolError, match="needs the cluster's token"):
        check(RayPool(kind="ray", address="127.0.0.1:1"))
    with pytest.raises(PoolError, match="no such file"):
        check(RayPool(kind="ray", address="127.0.0.1:1", token=str(tmp_path / "none")))
    token = token_file(tmp_path / "token")
    with pytest.raises(PoolError, match="HOST:PORT"):
        check(RayPool(kind="ray", address="localhost", token=str(token)))
    with pytest.raises(PoolError, match="nothing answers"):
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
