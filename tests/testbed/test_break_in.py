"""Getting in where one should not: every way is refused with a sentence, and changes nothing on the machines."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.trial import Trial
from tests.testbed.accounts import ANN, BOB
from tests.testbed.testbed import Person, Testbed

pytestmark = pytest.mark.slow

STATE = f"{ANN.home}/.local/state/hillclimb"

# What a shell would make something of, wherever it stands in a command.
TRICKY = """it's a "path" $(touch owned) `touch owned`; touch owned & \\ %s {name} *"""

# Joins a cluster as a driver of another person's would, and says whether it is in.
INTRUDER = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("inside", len(ray.nodes()))
"""


def head_address(bed: Testbed, pool: Path) -> str:
    up = bed.ann.says("pool", "up", "--pool", pool)
    (said,) = [line for line in up.stderr.splitlines() if line.startswith("Ray's head is at ")]
    return said.split()[-1]


@pytest.mark.soak
@pytest.mark.parametrize("token", ["none", "wrong"])
def test_driver_without_the_pools_token_does_not_get_into_its_ray(bed: Testbed, pool: Path, token: str) -> None:
    address = head_address(bed, pool)
    environment = {"PATH": os.environ["PATH"], "HOME": str(bed.bob.home), "RAY_USAGE_STATS_ENABLED": "0"}
    if token == "wrong":
        file = bed.bob.home / "token"
        file.write_text("0" * 64)
        file.chmod(0o600)
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}
    tried = subprocess.run(
        [sys.executable, "-c", INTRUDER, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (tried.returncode != 0, "inside" in tried.stdout) == (True, False)
    assert "oken" in tried.stderr, tried.stderr


@pytest.mark.usefixtures("pool")
def test_other_account_of_a_host_cannot_read_the_token_or_enter_the_pools_folders(bed: Testbed) -> None:
    secret = bed["one"].run(["cat", f"{STATE}/token"], ANN)
    for command in (["cat", f"{STATE}/token"], ["ls", STATE], ["sh", "-c", "ls /tmp/hillclimb-*/"]):
        with pytest.raises(subprocess.CalledProcessError):
            bed["one"].run(command, BOB)
    # nor is it in what everyone sees of a process
    assert not any(secret.strip() in " ".join(process.argv) for process in bed["one"].processes())


@pytest.fixture
def newcomer(bed: Testbed) -> Iterator[Person]:
    """Ann, on a machine that has never seen these hosts."""
    bed.ann.knows()
    yield bed.ann
    bed.ann.knows(*bed.machines.values())


def test_hosts_with_an_unknown_key_are_refused_with_the_way_to_accept_it(bed: Testbed, newcomer: Person) -> None:
    refused = newcomer.says("pool", "up", "--pool", bed.pool_file("unknown", root="~/unknown"))
    said = " ".join(refused.stderr.split())
    assert refused.returncode != 0
    assert "ssh-keyscan" in said or "known_hosts" in said, said
    assert bed["one"].address in said
    assert not bed["one"].outside(f"{ANN.home}/unknown").exists()


@pytest.mark.soak
def test_paths_with_spaces_and_quotes_in_every_field_are_only_paths(
    bed: Testbed, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    key = tmp_path / TRICKY
    key.write_bytes(bed.ann.key.read_bytes())
    key.chmod(0o600)
    root = f"{ANN.home}/{TRICKY}"
    one = trial(
        bed.pool_file(
            "tricky",
            key=str(key),
            root=root,
            # filled with the host's name, and given as one word
            release=["sh", "-c", 'test "$1" = "$2" && touch released-"$3"', "--", TRICKY, TRICKY, "{name}"],
        ),
        groups=2,
        blocks=1,
        sleep_s=0.2,
    )
    assert one.finish() == 0, one.said
    one.assert_complete()
    assert {host for _, host, _, _ in one.visits()} == {"one", "two"}
    down = bed.ann.says("pool", "down", "--pool", str(one.pool))
    assert down.returncode == 0, down.stderr
    for name, machine in bed.machines.items():
        assert machine.run(["find", "/home", "/tmp", "/run", "-name", "owned"]) == ""
        assert machine.outside(f"{root}/bundles").exists()
        assert (bed.ann.home / f"released-{name}").exists()
    assert [*bed.ann.home.rglob("owned"), *tmp_path.rglob("owned")] == []


@pytest.mark.parametrize("folder", ["a b", "it's", 'a"b', "$(touch owned)", "a;b"])
def test_interpreter_whose_path_a_shell_would_read_is_refused_before_anything_is_done(
    bed: Testbed, folder: str
) -> None:
    """Ray gives it to a shell as it is."""
    pool = bed.pool_file("shell", python=f"{ANN.home}/{folder}/bin/python", root="~/shell")
    refused = bed.ann.says("pool", "up", "--pool", pool)
    assert (refused.returncode, "python" in refused.stderr) == (2, True), refused.stderr
    assert not bed["one"].outside(f"{ANN.home}/shell").exists()
