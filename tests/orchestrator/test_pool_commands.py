"""`hillclimb pool`: a row a host, whatever a host does or does not say, and an exit code to build on."""

import asyncio
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from core.errors import HillclimbError
from core.events import Probed, Rung
from core.failures import Kind
from core.protocol import PROTOCOL, Alive, Care, Condition, HostHeld, Verb
from core.visit import Phase
from orchestrator.care import Answer, ask, chosen
from orchestrator.report import condition
from orchestrator.transport import HostDown, HostSilent
from tests.conftest import end_session, session_of, wait_until
from tests.orchestrator.test_end_to_end import MATRIX, rows, start

# What a slow machine may take for Ray to start and a block to run.
LATE_S = 240.0

CARE = Care(verb=Verb.CHECK, user="ann", machine="m")
CLEAN = Probed(clean=True, free_disk_bytes=2**31)
DIRTY = Probed(clean=False, kind=Kind.TPU_BUSY, reason="/dev/vfio/0 is held by pid 7 (uid 0): python x.py")
RUNS = Alive(visit=9, slot=None, phase=Phase.COMPILE, ended_slots=0, phase_s=3.2)
HELD = HostHeld(user="ann", controller="m:7", since="noon")


class Hosts:
    """Hosts that answer, fail or hang as told; `mute` hosts never answer."""

    def __init__(self, **answers: Condition | Exception | str | None) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def ensure(self, host: str) -> None:
        if isinstance(answer := self._answers[host], HostDown):
            raise answer

    async def care(self, host: str, text: str) -> str:
        self.asked.append(text)
        match self._answers[host]:
            case Condition() as said:
                return said.model_dump_json()
            case Exception() as error:
                raise error
            case str() as odd:
                return odd
            case None:
                await asyncio.Event().wait()
                raise AssertionError


async def test_ask_of_hosts_that_fail_or_hang_tells_of_each_within_one_deadline() -> None:
    good, other = Condition(host="good", probe=CLEAN), Condition(host="other", protocol=PROTOCOL + 1)
    silent, down = HostSilent("the link is cut"), HostDown("its node is dead")
    hosts = Hosts(mute=None, deaf=None, good=good, other=other, silent=silent, down=down, odd="Last login", odd2="{}")
    began = time.monotonic()
    answers = await ask(hosts, ["mute", "good", "silent", "down", "deaf", "other", "odd", "odd2"], CARE, 1.0)
    assert time.monotonic() - began < 1.9
    odd = [answers.pop(), answers.pop()]
    assert all(answer.silence.startswith("its actor says what is no answer (") for answer in odd)
    assert answers == [
        Answer("mute", None, "no answer within 1 s"),
        Answer("good", good),
        Answer("silent", None, "the link is cut"),
        Answer("down", None, "its node is dead"),
        Answer("deaf", None, "no answer within 1 s"),
        Answer("other", None, f"its actor speaks protocol {PROTOCOL + 1}, this hillclimb {PROTOCOL}"),
    ]
    assert {Care.model_validate_json(text) for text in hosts.asked} == {CARE}


def test_chosen_hosts_are_the_named_once_or_all_and_an_unknown_one_is_refused() -> None:
    assert chosen([], ["a", "b"]) == ["a", "b"]
    assert chosen(["b", "b"], ["a", "b"]) == ["b"]
    with pytest.raises(HillclimbError, match=r"no host 'host-2': did you mean 'host-1'\? It has host-1, other") as e:
        chosen(["host-2"], ["host-1", "other"])
    assert e.value.exit_code == 2


@pytest.mark.parametrize(
    ("said", "state", "reason", "in_order"),
    [
        ({"probe": CLEAN}, "ready", "", True),
        ({"probe": DIRTY, "alive": (RUNS,), "held": HELD}, "busy", "visit 9, slot - in compile for 3 s; held by", True),
        ({"probe": CLEAN, "held": HELD}, "held", "held by ann (m:7) since noon", True),
        ({"probe": CLEAN, "draining": "by hand", "alive": (RUNS,)}, "draining", "by hand; visit 9, slot -", False),
        ({"probe": DIRTY, "held": HELD}, "unclean", "held by pid 7 (uid 0): python x.py: `hillclimb pool rec", False),
        ({"probe": CLEAN, "facts": {"code": "another"}}, "other code", "bring both to the same revision", False),
        ({"probe": CLEAN, "facts": {"code": "ours"}}, "ready", "", True),
    ],
)
def test_check_tells_a_host_by_what_matters_first(
    said: dict[str, object], state: str, reason: str, in_order: bool
) -> None:
    answer = Answer("h", Condition(host="h", **said))
    row = condition.row(answer, "ours")
    assert (row["host"], row["state"]) == ("h", state)
    assert reason in row["reason"]
    assert condition.is_as_asked(Verb.CHECK, answer, "ours") is in_order


def test_row_of_a_silent_host_says_why_and_what_to_look_at() -> None:
    answer = Answer("h", None, "no answer within 30 s")
    assert condition.row(answer, "ours") == {
        "host": "h",
        "state": "silent",
        "reason": "no answer within 30 s: look at its raylet with `ray status`, and at the machine",
        "free_disk_GiB": None,
        "same_code": None,
    }
    assert not any(condition.is_as_asked(verb, answer, "ours") for verb in Verb)


def test_row_has_the_facts_of_the_host_with_units() -> None:
    facts = {"code": "ours", "free_disk_bytes": str(3 * 2**30), "ray": "2.60.0"}
    row = condition.row(Answer("h", Condition(host="h", probe=CLEAN, facts=facts)), "ours")
    assert row == {
        "host": "h", "state": "ready", "reason": "", "free_disk_GiB": 3.0, "same_code": True, "ray": "2.60.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "said", "good"),
    [
        (Verb.RECOVER, {"probe": CLEAN}, True),
        (Verb.RECOVER, {"probe": DIRTY}, False),
        (Verb.RECOVER, {"probe": CLEAN, "refused": "visit 9 runs: wait for its end"}, False),
        (Verb.DRAIN, {"probe": DIRTY, "draining": "by hand"}, True),
        (Verb.DRAIN, {"refused": "the disk is full: free some"}, False),
        (Verb.RELEASE, {"probe": DIRTY}, True),
        (Verb.RELEASE, {"draining": "its disk is full"}, False),
    ],
)
def test_what_was_asked_is_so_or_the_exit_code_says_it_is_not(verb: Verb, said: dict[str, object], good: bool) -> None:
    answer = Answer("h", Condition(host="h", **said))
    assert condition.is_as_asked(verb, answer, "ours") is good


def test_told_is_every_rung_and_what_was_refused() -> None:
    rungs = (Rung(step="term", good=False, detail="pid 7 lives on"), Rung(step="kill", good=True, detail="pid 7 ended"))
    answer = Answer("h", Condition(host="h", rungs=rungs, refused="it is restarting: wait"))
    assert condition.told(answer) == [
        "h: term, in vain: pid 7 lives on",
        "h: kill: pid 7 ended",
        "h: it is restarting: wait",
    ]


def pool(hillclimb: str, *words: str) -> tuple[int, list[dict[str, object]], str]:
    """The exit code, the rows and what was said beside them."""
    done = subprocess.run(
        [hillclimb, "pool", *words, "-o", "json"], capture_output=True, text=True, timeout=LATE_S, check=False
    )
    return done.returncode, json.loads(done.stdout or "[]"), done.stderr


@pytest.mark.slow
def test_pool_commands_on_attached_hosts_set_them_aside_and_put_them_back(
    hillclimb: str, attached_ray: Path, tmp_path: Path
) -> None:
    at = ("--pool", str(attached_ray))
    code, (row,), _ = pool(hillclimb, "check", *at)
    assert (code, row["state"], row["reason"], row["same_code"]) == (0, "ready", "", True)
    host = str(row["host"])

    code, (row,), _ = pool(hillclimb, "recover", *at)
    assert (code, row["state"]) == (0, "ready")

    code, (row,), _ = pool(hillclimb, "drain", host, "--why", "its disk is changed", *at)
    assert (code, row["state"]) == (0, "draining")
    code, (row,), _ = pool(hillclimb, "check", host, *at)
    assert (code, row["state"]) == (1, "draining")
    assert "its disk is changed; `hillclimb pool release`" in str(row["reason"])

    matrix, ledger, log = tmp_path / "chaos.toml", tmp_path / "l.db", tmp_path / "log"
    matrix.write_text(MATRIX)
    impatient = tmp_path / "impatient.toml"
    impatient.write_text(f"no_host_s = 20\n{attached_ray.read_text()}")
    running = start(hillclimb, matrix, ledger, log, "--pool", str(impatient))
    try:
        assert running.wait(LATE_S) == 6
    finally:
        end_session(running)
    assert "its disk is changed" in log.read_text()
    assert rows(ledger, "SELECT id FROM visit") == []

    code, (row,), _ = pool(hillclimb, "release", host, *at)
    # the run that ended without a host has let it go
    assert (code, row["state"], row["reason"]) == (0, "ready", "")

    code, none, said = pool(hillclimb, "check", "nobody", *at)
    assert (code, none) == (2, [])
    assert f"the pool has no host 'nobody': It has {host}" in said


@pytest.mark.slow
def test_pool_check_while_a_visit_runs_says_busy_and_recover_is_refused(
    hillclimb: str, attached_ray: Path, tmp_path: Path
) -> None:
    matrix, ledger, log = tmp_path / "chaos.toml", tmp_path / "l.db", tmp_path / "log"
    # one visit, long enough for the questions to come while it runs
    matrix.write_text(MATRIX.replace("sleep_s = 0.15", "sleep_s = 20.0").replace("seed = [1, 2]", "seed = [1]"))
    at = ("--pool", str(attached_ray))
    running = start(hillclimb, matrix, ledger, log, "--set", "measure.blocks=1", *at)
    try:
        began = "SELECT visit FROM event WHERE event = 'runner_began'"
        wait_until(lambda: _has_table(ledger) and rows(ledger, began), LATE_S, "the runner")
        code, (row,), _ = pool(hillclimb, "check", *at)
        assert (code, row["state"]) == (0, "busy")
        assert "visit 1, slot" in str(row["reason"])
        assert f":{running.pid}) since" in str(row["reason"])
        code, (row,), said = pool(hillclimb, "recover", *at)
        assert (code, row["state"]) == (1, "busy")
        assert "visit 1 runs: wait for its end, or cancel it" in said
        assert running.wait(LATE_S) == 0, log.read_text()
    finally:
        end_session(running)
    assert rows(ledger, "SELECT state FROM visit") == [("finished",)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_pool_check_interrupted_while_ray_starts_exits_in_order(
    hillclimb: str, state: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    log = tmp_path / "log"
    with log.open("w") as out:
        checking = subprocess.Popen(
            [hillclimb, "pool", "check"], stdout=out, stderr=subprocess.STDOUT, start_new_session=True, text=True
        )
    try:
        # the head of the embedded Ray is up, its node is not
        wait_until(lambda: len(session_of(checking.pid)) > 2, LATE_S, "the first process of Ray")
        checking.send_signal(number)
        assert checking.wait(LATE_S) == code
        # Ray's agents look for their raylet now and then, and end when it is gone
        wait_until(lambda: session_of(checking.pid) == [], LATE_S, "the end of Ray")
    finally:
        end_session(checking)
    assert "Traceback" not in log.read_text()
    assert not (state / "hosts").exists()


def _has_table(ledger: Path) -> bool:
    return ledger.exists() and bool(rows(ledger, "SELECT 1 FROM sqlite_schema WHERE name = 'event'"))
