"""A machine asked for things, whatever lies in the home that its sessions start in."""

import json
import platform
import sys
from collections.abc import Callable, Iterator

import pytest

from infra.bundle import bundle_of
from infra.errands import VERSIONS
from infra.station import Station
from tests.sshd import Sshd, make_sshd

__all__ = ["make_sshd"]

pytestmark = pytest.mark.slow

# What programs of ours import, as somebody's own scripts may be called.
SHADOWS = ("json", "pathlib", "socket", "platform", "select", "ctypes", "importlib")


# A session of this sshd starts where its account lives, which is not its HOME here.
HOMELY = 'cd "$HOME" && exec sh -c "$SSH_ORIGINAL_COMMAND"'


@pytest.fixture
def station(make_sshd: Callable[..., Sshd]) -> Iterator[Station]:
    sshd = make_sshd(HOMELY)
    for name in SHADOWS:
        (sshd.home / f"{name}.py").write_text("raise SystemExit('somebody else\\'s script')\n")
    station = Station(sshd.machine(python=sys.executable), "~/state")
    yield station
    station.close()


def test_station_runs_its_own_programs_whatever_lies_in_the_home_there(station: Station) -> None:
    assert station.survey().sessions is not None
    assert json.loads(station.errand(VERSIONS))[0].startswith("3.")
    ready = station.ready(bundle_of(""))
    assert ready.python == sys.executable
    assert ready.versions.python == ".".join(platform.python_version_tuple()[:2])
