"""`hillclimb pool up`, `status` and `down` as a person uses them: rows, sentences with the way on, exit codes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.protocol import Verb
from infra.agent import Facts, Running
from infra.cluster import NOT_UP
from infra.pool import PoolError
from infra.station import Survey
from infra.upkeep import Ending, Seen, Standing, State, standing
from orchestrator.care import Answer
from orchestrator.report import condition, machines
from tests.conftest import BIN, end_session, wait_until
from tests.orchestrator.test_end_to_end import MATRIX, rows
from tests.testbed.testbed import Person, Testbed

# What a slow machine may take for Ray to start and a runner to begin.
LATE_S = 240.0

FACTS = Facts(
    python="3.11.7",
    executable="/usr/bin/python3",
    user="ann",
    uid=1000,
    home="/home/ann",
    root="/r",
    boot="b",
    arch="x86_64",
    hostname="one",
    memory_bytes=2**34,
    free_disk_bytes=2**33,
    address="10.0.0.1",
)
SURVEY = Survey({}, None, 2**29, {"bundles": 10**6, "envs": 2 * 10**9, "hosts": 0})
HEAD = Running(1, 1, (), 0.0, {"word": "w", "address": "10.0.0.1:6000", "ray": "2.60.0", "python": "3.11"})
RAYLET = Running(2, 1, (), 0.0, {"head": "w", "ray": "2.60.0", "python": "3.11"})
BOB = json.dumps({"user": "bob", "controller": "desk:7", "since": "noon"})


@pytest.mark.parametrize(
    ("seen", "head", "state", "reason"),
    [
        (Seen(FACTS, SURVEY, HEAD, RAYLET), HEAD, State.UP, ""),
        (Seen(FACTS, SURVEY, None, None), HEAD, State.DOWN, "`hillclimb pool up`"),
        (Seen(FACTS, SURVEY, None, RAYLET), None, State.STRAY, "`hillclimb pool up`"),
        (Seen(FACTS, SURVEY, None, RAYLET), HEAD._replace(info={"word": "v"}), State.STRAY, "`hillclimb pool up`"),
        (Seen(FACTS, SURVEY, None, RAYLET), PoolError("no route"), State.UP, "head is not known: no route"),
        (Seen(FACTS, SURVEY._replace(holder=BOB), None, RAYLET), None, State.IN_USE, "bob (desk:7) has it since noon"),
        (Seen(FACTS, SURVEY._replace(holder="?"), None, RAYLET), HEAD, State.IN_USE, "in use"),
        (PoolError("one: connection refused"), HEAD, State.SILENT, "connection refused"),
    ],
)
def test_standing_of_a_host_is_what_a_person_must_know_first(
    seen: Seen | PoolError, head: Running | PoolError | None, state: State, reason: str
) -> None:
    found = standing("one", seen, head, is_host=True)
    assert found.state is state
    assert reason in found.reason
    assert bool(found.reason) == bool(reason)
    assert not found.reason.startswith("one:")


def test_machine_of_the_head_alone_is_up_with_its_head() -> None:
    assert standing("head", Seen(FACTS, SURVEY, HEAD, None), HEAD, is_host=False).state is State.UP
    assert standing("head", Seen(FACTS, SURVEY, None, None), None, is_host=False).state is State.DOWN


def test_rows_of_machines_have_their_units_and_a_silent_one_has_none() -> None:
    row = machines.standing(Standing("one", State.UP, "", Seen(FACTS, SURVEY, HEAD, RAYLET)))
    assert row == {
        "host": "one", "state": "up", "reason": "", "head": "10.0.0.1:6000", "since": "1970-01-01T00:00:00+00:00",
        "ray": "2.60.0", "python": "3.11", "arch": "x86_64", "memory_GiB": 16.0, "used_memory_GiB": 0.5,
        "free_disk_GiB": 8.0, "used_disk_GiB": 2_001_000_000 / 2**30,
    }  # fmt: skip
    row = machines.standing(Standing("one", State.SILENT, "connection refused", None))
    assert row == {"host": "one", "state": "silent", "reason": "connection refused"}


def test_row_of_an_end_says_what_is_left_and_where_unless_the_machine_is_given_back() -> None:
    row = machines.ending(Ending("one", ("raylet", "head"), "/r", SURVEY.folders, False, ""))
    assert row == {
        "host": "one", "ended": "raylet, head", "released": False, "reason": "", "left_in": "/r",
        "bundles_MB": 1.0, "envs_MB": 2000.0, "hosts_MB": 0.0,
    }  # fmt: skip
    row = machines.ending(Ending("one", (), "/r", SURVEY.folders, True, ""))
    assert row == {"host": "one", "ended": "", "released": True, "reason": "", "left_in": None}


def test_row_of_a_host_that_is_not_up_says_so_with_the_reason_as_it_is() -> None:
    answer = Answer("one", None, NOT_UP, left_out=True)
    row = condition.row(answer, "ours")
    assert (row["state"], row["reason"]) == ("not up", NOT_UP)
    assert not any(condition.is_as_asked(verb, answer, "ours") for verb in Verb)


@pytest.mark.parametrize("command", ["up", "status", "down"])
def test_pool_command_of_ssh_pools_on_another_is_refused_with_what_to_ask(hillclimb: str, command: str) -> None:
    done = subprocess.run([hillclimb, "pool", command, "--pool", "local"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"`pool {command}` is for pools of kind ssh" in done.stderr
    assert "`hillclimb pool check`" in done.stderr


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    with Testbed(tmp_path_factory.mktemp("bed"), "one", "two") as bed:
        yield bed


def said(person: Person, *words: str | Path) -> tuple[int, list[dict[str, object]], str]:
    """The exit code, the rows and what was said beside them."""
    done = person.says("pool", *words, "-o", "json")
    return done.returncode, json.loads(done.stdout or "[]"), done.stderr


def of(found: list[dict[str, object]], key: str) -> dict[object, object]:
    return {row["host"]: row[key] for row in found}


@pytest.mark.slow
def test_pool_from_nothing_up_looked_at_and_down_again(bed: Testbed) -> None:
    at = ("--pool", bed.pool_file("pool"))
    code, found, told = said(bed.ann, "check", *at)
    assert (code, of(found, "state")) == (1, {"one": "not up", "two": "not up"})
    assert all("`hillclimb pool up`" in str(row["reason"]) for row in found), told
    code, found, _ = said(bed.ann, "status", *at)
    assert (code, of(found, "state")) == (0, {"one": "down", "two": "down"})
    assert bed["one"].processes("ray") == []

    code, found, told = said(bed.ann, "up", *at)
    assert (code, of(found, "state")) == (0, {"one": "up", "two": "up"}), told
    assert all(int(str(row["sent_bytes"])) > 1e5 for row in found)
    assert f"Ray's head is at {bed['one'].address}:" in told

    code, found, told = said(bed.ann, "check", *at)
    assert (code, of(found, "state")) == (0, {"one": "ready", "two": "ready"}), told
    code, found, told = said(bed.ann, "drain", "two", "--why", "its disk is changed", *at)
    assert (code, of(found, "state")) == (0, {"two": "draining"}), told
    code, found, told = said(bed.ann, "release", "two", *at)
    assert (code, of(found, "state")) == (0, {"two": "ready"}), told
    code, found, _ = said(bed.ann, "status", *at)
    assert (code, of(found, "state")) == (0, {"one": "up", "two": "up"})
    assert all(float(str(row["used_memory_GiB"])) > 0.05 for row in found)

    code, found, _ = said(bed.ann, "down", *at)
    assert (code, of(found, "ended")) == (0, {"one": "raylet, head", "two": "raylet"})
    assert set(of(found, "left_in").values()) == {"/home/ann/.local/state/hillclimb"}
    assert bed["one"].processes("ray") == bed["two"].processes("ray") == []
    code, found, _ = said(bed.ann, "down", *at)
    assert (code, of(found, "ended")) == (0, {"one": "", "two": ""})


@pytest.mark.slow
def test_pool_up_with_a_dead_host_exits_1_and_with_a_dead_head_6(bed: Testbed) -> None:
    at = ("--pool", bed.pool_file("half"))
    bed["two"].kill_sshd()
    try:
        code, found, told = said(bed.ann, "up", *at)
        assert (code, of(found, "state")) == (1, {"one": "up", "two": "failed"}), told
        assert "check that sshd runs there" in str(of(found, "reason")["two"])
        code, found, told = said(bed.ann, "check", *at)
        assert (code, of(found, "state")) == (1, {"one": "ready", "two": "not up"}), told
        code, found, told = said(bed.ann, "up", "--pool", bed.pool_file("headless", head="two"))
        assert (code, found) == (6, [])
        assert "Ray's head is to run on two" in told
    finally:
        bed["two"].start_sshd()


@pytest.mark.slow
def test_pool_down_under_a_visit_is_refused_with_whose_it_is_and_forced_ends_it(bed: Testbed, tmp_path: Path) -> None:
    pool, matrix, ledger = bed.pool_file("used"), tmp_path / "m.toml", tmp_path / "l.db"
    matrix.write_text(MATRIX.replace("sleep_s = 0.15", "sleep_s = 300.0"))
    at = ("--pool", pool)
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [BIN / "hillclimb", "run", matrix, "--ledger", ledger, *at],
            env=bed.ann.environment, stdout=log, stderr=log, start_new_session=True, text=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _began(ledger), LATE_S, "the runners")
        code, found, _ = said(bed.ann, "status", *at)
        assert (code, set(of(found, "state").values())) == (0, {"in use"})
        assert all(f":{running.pid}) has it since" in str(row["reason"]) for row in found)
        code, found, told = said(bed.ann, "down", *at)
        assert (code, found) == (6, [])
        assert f":{running.pid}) has it since" in told
        assert "--force" in told
        assert bed["one"].processes("workers.runner")
    finally:
        # it would bring up again what goes down
        end_session(running)
    code, found, told = said(bed.ann, "down", "--force", *at)
    assert (code, of(found, "ended")) == (0, {"one": "raylet, head", "two": "raylet"}), told
    assert bed["one"].processes("workers.runner") == bed["two"].processes("workers.runner") == []


def _began(ledger: Path) -> bool:
    """Whether a runner has begun on each host."""
    if not ledger.exists() or not rows(ledger, "SELECT 1 FROM sqlite_schema WHERE name = 'event'"):
        return False
    return len(rows(ledger, "SELECT DISTINCT visit FROM event WHERE event = 'runner_began'")) == 2
