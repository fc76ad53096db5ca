"""A visit is cut short: what it measured counts, what it lacks is measured once more, and no job pays for it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from core.failures import Kind
from orchestrator.transport import HostDown
from tests.faults.shell import Wire, drive
from tests.faults.trial import Trial

pytestmark = pytest.mark.slow

ARMS = 3


def dying_after(trial: Trial, runs: int) -> Callable[[str], Exception | None]:
    """The actor of the first visit dies when so many of its runs are in the ledger."""
    deaths = itertools.count()

    def fault(host: str) -> Exception | None:
        began = [event for event in trial.events("runner_began") if event["host"] == host]
        ended = [event for event in trial.events("run_ended") if event["visit"] == 1]
        if began and began[0]["visit"] == 1 and len(ended) == runs and next(deaths) == 0:
            return HostDown("the actor died")
        return None

    return fault


@pytest.mark.parametrize("runs", [0, 1, ARMS - 1])
async def test_visit_cut_after_some_runs_keeps_them_and_a_further_block_measures_the_rest(
    tmp_path: Path, runs: int
) -> None:
    trial = Trial(tmp_path, {}, "", arms=ARMS, blocks=1, sleep_s=0.5)
    finish, said = await drive(trial, Wire(tmp_path / "state", dying_after(trial, runs)), ["one", "two"])
    assert (finish.blocked, finish.paused) == ("", ""), said
    trial.assert_complete()
    (first, host, state, kind), (_, elsewhere, _, _) = trial.visits()
    assert (state, kind) == ("failed", Kind.WORKER_LOST.value)
    assert elsewhere != host
    assert len(trial.rows("SELECT id FROM run WHERE visit = ? AND outcome = 'ok'", first)) == runs
    slots = trial.rows("SELECT json_array_length(slots), origin, accepted_visit FROM block ORDER BY id")
    lacking = ARMS - runs + 1  # and the reference again
    assert slots == ([(ARMS, "first", 2)] if runs == 0 else [(ARMS, "first", 1), (lacking, "make-up", 2)])
    assert trial.kinds_of_runs() == []


async def test_job_that_fails_ambiguously_on_the_only_host_gets_one_retry_there(tmp_path: Path) -> None:
    trial = Trial(
        tmp_path,
        {},
        "",
        blocks=1,
        sleep_s=0.01,
        job="signal = 9",
        axes='end = ["ok", "signal"]',
        baseline='end = "ok"',
    )
    finish, said = await drive(trial, Wire(tmp_path / "state"), ["only"])
    assert (finish.blocked, finish.paused) == ("", ""), said
    trial.assert_consistent()
    assert trial.kinds_of_runs() == [(Kind.KILLED.value, "signal 9 (SIGKILL)")] * 2
    assert [host for _, host, _, _ in trial.visits()] == ["only", "only"]
    # between the two the host was looked at, and was clean
    told = trial.rows("SELECT visit, event, json_extract(body, '$.clean') FROM event WHERE host = 'only' ORDER BY seq")
    second = [row for row in told if row[0] == 2 and row[1] in {"probed", "runner_began"}]
    assert second[0] == (2, "probed", 1)
    assert trial.rows("SELECT id FROM block WHERE accepted_visit ISNULL AND closed ISNULL") == []
