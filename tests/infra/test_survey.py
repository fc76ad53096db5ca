"""The survey sees the pool's processes and nobody else's, who has the lock, and what lies on the disk."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from inspect import getsource
from pathlib import Path

import pytest

from infra import survey
from tests.processes import end_session, session_of, wait_until

# A process that calls itself as Ray's server does, in a session of its own, and has a file open.
SERVER = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
file = open(sys.argv[2])
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.write_text("ann has it")
    return path


@pytest.fixture
def server(lock: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, "raylet", lock],
        env=os.environ | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    end_session(process)


def asked(tmp_path: Path, lock: Path, **folders: str) -> dict[str, object]:
    """As a host is asked: the program's text, run by itself."""
    told = {"token": str(tmp_path / "token"), "lock": str(lock), "folders": folders}
    command = [sys.executable, "-I", "-c", getsource(survey), json.dumps(told)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_survey_of_a_pool_with_a_server_tells_its_session_its_memory_and_who_has_the_lock(
    tmp_path: Path, lock: Path, server: subprocess.Popen[str]
) -> None:
    seen = asked(tmp_path, lock)
    assert seen["sessions"] == {str(server.pid): ["raylet"]}
    assert seen["holder"] == "ann has it"
    assert 1e6 < seen["memory_bytes"] < 1e9


def test_survey_is_of_one_pool_whoever_else_is_on_the_machine(
    tmp_path: Path, lock: Path, server: subprocess.Popen[str]
) -> None:
    (tmp_path / "other").mkdir()
    seen = asked(tmp_path / "other", lock)
    assert session_of(server.pid)
    assert seen == {"sessions": {}, "holder": None, "memory_bytes": 0, "folders": {}}


def test_survey_of_a_server_that_was_killed_has_it_no_more(
    tmp_path: Path, lock: Path, server: subprocess.Popen[str]
) -> None:
    server.kill()
    # a zombie, until it is waited for
    wait_until(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    seen = asked(tmp_path, lock)
    assert (seen["sessions"], seen["holder"]) == ({}, None)


def test_survey_counts_a_folders_files_once_and_a_missing_one_as_nothing(tmp_path: Path, lock: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    (folder / "one").write_bytes(os.urandom(1 << 20))
    (folder / "same").hardlink_to(folder / "one")
    seen = asked(tmp_path, lock, bundles=str(folder), envs=str(tmp_path / "none"))
    assert 1 << 20 <= seen["folders"]["bundles"] < 1.1 * (1 << 20)
    assert seen["folders"]["envs"] == 0
