"""What more than one room's tests need: the command, a state directory of one's own, and a Ray to attach to."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def wait_until(true: Callable[[], object], seconds: float = 60.0, what: str = "the condition") -> None:
    """Waits on a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def session_of(leader: int) -> list[int]:
    """The live processes of a session."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def end_session(process: subprocess.Popen[str]) -> None:
    """Ends a process started with start_new_session, and everything it left in its session."""
    for pid in session_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


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


def ray_head(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """Starts a Ray cluster of one labelled node below `root`. Returns its process and the pool file that attaches."""
    root.mkdir(parents=True, exist_ok=True)
    token = root / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    log = root / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"),
                *("--num-cpus=1", "--include-dashboard=false", "--object-store-memory=80000000"),
                f"--labels=hillclimb-host=h{port}",
            ],
            env=environment,
            start_new_session=True,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait_until(lambda: "will now block forever" in log.read_text(), 90, "the Ray head")
    except AssertionError:
        end_session(head)
        raise
    pool = root / "pool.toml"
    pool.write_text(f'kind = "ray"\naddress = "127.0.0.1:{port}"\ntoken = "{token}"\n')
    return head, pool


@pytest.fixture(scope="module")
def attached_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray cluster that outlives controllers: the pool file that attaches to it. Its hosts' state is its own too."""
    root = tmp_path_factory.mktemp("ray")
    before = os.environ.get("HILLCLIMB_STATE")
    os.environ["HILLCLIMB_STATE"] = str(root / "state")
    head, pool = ray_head(root)
    try:
        yield pool
    finally:
        end_session(head)
        if before is None:
            del os.environ["HILLCLIMB_STATE"]
        else:
            os.environ["HILLCLIMB_STATE"] = before


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first, so that no worker is left with the longest when the others are done."""
    items.sort(key=lambda item: "slow" not in item.keywords)
