"""One matrix, one ledger and whoever drives it, as real processes; and what must be true of the ledger in the end."""

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster import BIN
from tests.processes import end_session, wait_until
from workers.host.process import Identity, is_alive

MATRIX = """
[experiment]
id = "trial"
goal = "Is anything lost, or measured twice?"
[job]
kind = "selftest"
sleep_s = {sleep_s}
{job}
[axes]
{axes}
[baseline]
{baseline}
[measure]
blocks = {blocks}
iters = {iters}
warmup = 0
{more}
"""

# A controller starts in 3 s on two idle cores, and these are rarely idle.
STARTS_S = 120.0

# Longer than any of these matrices takes, with its faults.
ENDS_S = 240.0


class Running(NamedTuple):
    """A runner at work."""

    pid: int
    visit: int
    host: str


class Trial:
    """A matrix of selftest jobs: `groups` groups of `arms` arms, each in `blocks` blocks; the ledger; its drivers."""

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        pool: Path | str,
        *,
        groups: int = 1,
        arms: int = 2,
        blocks: int = 2,
        iters: int = 2,
        sleep_s: float = 0.1,
        job: str = "",
        axes: str = "",
        baseline: str = "seed = 1",
        more: str = "",
        lives: Callable[[str, Identity], bool] = lambda _, process: is_alive(process),
    ) -> None:
        """`axes`, if given, stands for the groups and arms; `more` are further tables of the matrix.

        `lives(host, process)`: how to see whether a process of a host does.
        """
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.pool = pool
        self.environment = environment
        self._lives = lives
        self.ledger = root / "ledger.db"
        self.matrix = root / "matrix.toml"
        names = json.dumps([str(group) for group in range(1, groups + 1)])
        numbers = list(range(1, arms + 1))
        self.matrix.write_text(
            MATRIX.format(
                sleep_s=sleep_s,
                job=job,
                axes=axes or f'"env.GROUP" = {names}\nseed = {numbers}',
                baseline=baseline,
                blocks=blocks,
                iters=iters,
                more=more,
            )
        )
        self.jobs, self.blocks, self.iters = groups * arms, blocks, iters
        self._log = root / "log"
        self._started: list[subprocess.Popen[str]] = []

    # -- what is done -------------------------------------------------------------------------------------------------

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`hillclimb run` of the matrix on the pool, or `words`, as a process of its own session."""
        command = words or ("run", str(self.matrix), "--pool", str(self.pool))
        return self.spawn(str(BIN / "hillclimb"), *command, "--ledger", str(self.ledger))

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=dict(self.environment),
            cwd=self.root,
            stdout=self._log.open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        self._started.append(process)
        return process

    def finish(self, *words: str) -> int:
        return self.start(*words).wait(ENDS_S)

    def say(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command beside the driver."""
        return subprocess.run(
            [BIN / "hillclimb", *words, "--ledger", self.ledger],
            env=dict(self.environment),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=STARTS_S,
        )

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for process in self._started:
            end_session(process)

    @property
    def was_cut_short(self) -> bool:
        """Whether a driver was killed, or still drives: it has let no host go."""
        return any(process.poll() is None or process.returncode < 0 for process in self._started)

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def said(self) -> str:
        return self._log.read_text()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Empty while there is no ledger yet."""
        try:
            with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=30)) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "unable to open" in str(error) or "no such table" in str(error):
                return []
            raise

    def events(self, event: str) -> list[dict[str, Any]]:
        """What was said of that kind, oldest first, with `visit` and `host`."""
        found = self.rows("SELECT visit, host, body FROM event WHERE event = ? ORDER BY at_ns", event)
        return [{**json.loads(body), "visit": visit, "host": host} for visit, host, body in found]

    def decisions(self, what: str) -> list[dict[str, Any]]:
        return [decided for decided in self.events("decided") if decided["what"] == what]

    def visits(self) -> list[tuple[Any, ...]]:
        """(id, host, state, kind) of every visit."""
        return self.rows("SELECT id, host, state, kind FROM visit ORDER BY id")

    def accepted(self) -> list[int]:
        return [visit for (visit,) in self.rows("SELECT accepted_visit FROM block WHERE accepted_visit NOTNULL")]

    def kinds_of_runs(self) -> list[tuple[Any, ...]]:
        """(kind, exit status) of every failed run."""
        return self.rows("SELECT kind, exit_status FROM run WHERE outcome = 'failed' ORDER BY id")

    def runners(self) -> list[Identity]:
        """Those that live, oldest first."""
        began = [(event["host"], Identity(event["pid"], event["start_time"])) for event in self.events("runner_began")]
        return [runner for host, runner in began if self._lives(host, runner)]

    # -- what is waited for -------------------------------------------------------------------------------------------

    def until(self, query: str, *values: object) -> None:
        """Until a query returns rows."""
        self._wait(lambda: bool(self.rows(query, *values)), query)

    def until_said(self, text: str, times: int = 1) -> None:
        self._wait(lambda: self.said.count(text) >= times, f"the words {text!r}")

    def until_a_runner_measures(self, host: str | None = None, visit: int | None = None) -> Running:
        """A runner that is measuring, on that host or for that visit."""
        found: list[Running] = []

        def measuring() -> bool:
            visits = {event["visit"] for event in self.events("phase") if event["phase"] == "measure"}
            found[:] = [
                Running(event["pid"], event["visit"], event["host"])
                for event in self.events("runner_began")
                if event["visit"] in visits
                and self._lives(event["host"], Identity(event["pid"], event["start_time"]))
                and host in (None, event["host"])
                and visit in (None, event["visit"])
            ]
            return bool(found)

        self._wait(measuring, "a runner that measures")
        return found[0]

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        """As long as somebody drives: what is said then tells why it did not come true."""

        def there() -> bool:
            if true():
                return True
            assert any(process.poll() is None for process in self._started), "nobody drives any more"
            return False

        try:
            wait_until(there, STARTS_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error} ({what}): {self.said}") from None

    # -- what must be true --------------------------------------------------------------------------------------------

    def assert_complete(self) -> None:
        """Nothing lost: every block has one accepted visit, of its own, and every job its samples in as many of them
        as were asked for. Nothing twice: no run, no start of a visit. Nothing open, and nobody left at work.
        """
        accepted = self.rows("SELECT b.id, v.block, v.state FROM block b JOIN visit v ON v.id = b.accepted_visit")
        assert len(accepted) == len(self.rows("SELECT id FROM block WHERE closed ISNULL")), self.said
        assert all(block == of and state in {"finished", "failed"} for block, of, state in accepted), accepted
        measured = self.rows(
            """SELECT r.job, count(DISTINCT b.id) FROM block b JOIN run r ON r.visit = b.accepted_visit
               WHERE r.outcome = 'ok' AND (SELECT count(*) FROM sample s WHERE s.run = r.id) = ? GROUP BY r.job""",
            self.iters,
        )
        assert len(measured) == self.jobs, measured
        assert all(count >= self.blocks for _, count in measured), measured
        self.assert_consistent()
        assert self.rows("SELECT id FROM visit WHERE state IN ('leased', 'running')") == []
        assert self.runners() == []

    def assert_consistent(self) -> None:
        """What holds at any time, however the last controller ended."""
        assert self.rows("SELECT visit, slot FROM run GROUP BY visit, slot HAVING count(*) > 1") == []
        twice = "SELECT visit FROM event WHERE event = 'visit_began' GROUP BY visit HAVING count(*) > 1"
        assert self.rows(twice) == []
        open_twice = "SELECT {} FROM visit WHERE state IN ('leased', 'running') GROUP BY 1 HAVING count(*) > 1"
        assert self.rows(open_twice.format("block")) == []
        assert self.rows(open_twice.format("host")) == []
        closed = "SELECT r.id FROM run r JOIN visit v ON v.id = r.visit WHERE v.ended_at_ns NOTNULL AND outcome ISNULL"
        assert self.rows(closed) == []
        assert self.rows("PRAGMA integrity_check") in ([("ok",)], [])
