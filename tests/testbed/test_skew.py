"""Hosts that do not fit together: another Ray, no Ray, an actor of other code. Each is named with what to do."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.protocol import PROTOCOL
from tests.faults.trial import ENDS_S, Trial
from tests.testbed.accounts import ANN
from tests.testbed.environment import make_environment
from tests.testbed.machine import REPOSITORY, Machine
from tests.testbed.testbed import Testbed

pytestmark = [pytest.mark.slow, pytest.mark.soak]

# A host's patience with its controller, as short as a killed controller's successor takes to be there.
ORPHAN_S = 20.0

METADATA = "Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n"


def another_ray(machine: Machine) -> str:
    """The interpreter of an environment whose Ray says that it is another version."""
    told = make_environment(machine, f"{ANN.home}/another-ray") / "ray-2.59.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(METADATA)
    return f"{ANN.home}/another-ray/bin/python"


def no_ray(machine: Machine) -> str:
    make_environment(machine, f"{ANN.home}/no-ray", is_empty=True)
    return f"{ANN.home}/no-ray/bin/python"


@pytest.mark.parametrize(("made", "words"), [(another_ray, "2.59.0"), (no_ray, "ray")])
def test_host_with_another_ray_or_none_is_left_out_with_the_fix_and_the_other_measures(
    bed: Testbed, trial: Callable[..., Trial], made: Callable[[Machine], str], words: str
) -> None:
    python = made(bed["two"])
    # a root of its own: what is up for others fits together
    pool = bed.pool_file("skew", {"one": {}, "two": {"python": python}}, root=f"~/{made.__name__}")
    checked = bed.ann.says("pool", "up", "--pool", pool)
    assert checked.returncode == 1, checked.stderr
    said = " ".join(checked.stderr.split())
    assert words in said
    assert "two" in said
    one = trial(pool, blocks=1, sleep_s=0.1)
    assert one.finish() == 0, one.said
    one.assert_complete()
    assert {host for _, host, _, _ in one.visits()} == {"one"}
    assert bed.ann.says("pool", "down", "--pool", pool).returncode == 0


def checkout(folder: Path) -> Path:
    """The code as it was one protocol ago: somebody's checkout that was not updated."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    protocol = folder / "core" / "protocol.py"
    text = protocol.read_text()
    assert f"PROTOCOL = {PROTOCOL}\n" in text
    protocol.write_text(text.replace(f"PROTOCOL = {PROTOCOL}\n", f"PROTOCOL = {PROTOCOL - 1}\n"))
    subprocess.run(["git", "init", "-q", folder], check=True)
    who = ("-c", "user.name=ann", "-c", "user.email=ann@one")
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "begin"], cwd=folder, check=True)
    return folder


def actors(bed: Testbed) -> set[tuple[str, int]]:
    """Host and pid."""
    return {(host, found.pid) for host in ("one", "two") for found in bed[host].processes("ray::HostActor")}


def test_actor_of_an_older_protocol_is_replaced_when_its_controller_has_been_silent_for_long(
    bed: Testbed, trial: Callable[..., Trial], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nobody of another protocol can ask it what it does: it has its own clock to go by."""
    pool = bed.pool_file("older", root="~/older", orphan_s=ORPHAN_S)
    assert bed.ann.says("pool", "up", "--pool", pool).returncode == 0
    one = trial(pool, groups=2, blocks=1, sleep_s=ORPHAN_S)
    # another pool's may be there
    others = actors(bed)
    newer = one.environment
    one.environment = {**newer, "PYTHONPATH": str(checkout(tmp_path / "older"))}
    first = one.start()
    for host in ("one", "two"):
        one.until_a_runner_measures(host)
    older = actors(bed) - others
    assert {host for host, _ in older} == {"one", "two"}
    one.kill(first)
    killed = time.monotonic()
    one.environment = newer
    second = one.start("run", str(one.matrix), "--pool", str(one.pool), "--same-series")
    one.until_said(f"its actor speaks protocol {PROTOCOL - 1}")
    one.until("SELECT 1 FROM event WHERE event = 'runner_began' AND visit > 2")
    record_property("replaced_after_s", round(time.monotonic() - killed, 1))
    assert time.monotonic() - killed > ORPHAN_S
    assert second.wait(ENDS_S) == 0, one.said
    one.assert_complete()
    assert not older & actors(bed)
    assert {state for number, _, state, _ in one.visits() if number > 2} == {"finished"}
    assert len(one.visits()) == 4
    assert bed.ann.says("pool", "down", "--pool", pool).returncode == 0
