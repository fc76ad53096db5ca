"""The runner dies, or does not get on: how is told as it was, and nothing else is lost."""

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from core.failures import Kind
from tests.cluster import Cluster
from tests.faults.trial import Trial

pytestmark = pytest.mark.slow


class Death(NamedTuple):
    fields: str  # of the job, beside `end`
    end: str
    kind: Kind
    exit_status: str


# A selftest says nothing while it dies: what XLA's own words tell is not among these.
DEATHS = {
    "exit1": Death("exit_code = 1", "exit", Kind.CRASH, "exit 1"),
    "exit134": Death("exit_code = 134", "exit", Kind.CRASH, "exit 134"),
    "exit137": Death("exit_code = 137", "exit", Kind.KILLED, "exit 137"),
    "exit139": Death("exit_code = 139", "exit", Kind.CRASH, "exit 139"),
    "abort": Death("signal = 6", "signal", Kind.CRASH, "signal 6 (SIGABRT)"),
    "kill": Death("signal = 9", "signal", Kind.KILLED, "signal 9 (SIGKILL)"),
    "segv": Death("signal = 11", "signal", Kind.CRASH, "signal 11 (SIGSEGV)"),
    "spin": Death('phase = "compile"', "spin", Kind.STALL, "signal 15 (SIGTERM)"),
}
ENDS = ("exit", "signal", "spin")


def matrix_of_deaths() -> dict[str, object]:
    """A group for each death: a good arm, which is one job for all groups, and the dying one."""
    bundles = "\n".join(f"{name} = {{ {death.fields} }}" for name, death in DEATHS.items())
    others = "\n".join(
        f'[[exclude]]\ndeath = "{name}"\nend = {[end for end in ENDS if end != death.end]}\nwhy = "another death"'
        for name, death in DEATHS.items()
    )
    return {
        "axes": f"death = {list(DEATHS)}\nend = {['ok', *ENDS]}",
        "baseline": 'end = "ok"',
        "more": f"[bundles.death]\n{bundles}\n{others}",
    }


def test_runner_that_dies_is_told_by_its_status_and_its_job_gets_one_retry_elsewhere(
    cluster: Cluster, trial: Callable[..., Trial]
) -> None:
    pool = cluster.pool_file("deaths", deadlines={"compile": 3.0})
    one = trial(pool, blocks=1, sleep_s=0.01, **matrix_of_deaths())
    assert one.finish() == 3, one.said

    one.assert_consistent()
    runs = one.rows(
        "SELECT r.job, v.host, r.kind, r.exit_status FROM run r JOIN visit v ON v.id = r.visit"
        " WHERE r.outcome = 'failed' ORDER BY r.id"
    )
    told = {job: (kind, status) for job, _, kind, status in runs}
    assert sorted(told.values()) == sorted((death.kind.value, death.exit_status) for death in DEATHS.values())
    # twice each, not on the same host, and never more
    assert sorted((job, host) for job, host, _, _ in runs) == sorted((j, h) for j in told for h in ("one", "two"))
    assert one.rows("SELECT id FROM block WHERE accepted_visit ISNULL AND closed ISNULL") == []
    good = one.rows(
        "SELECT count(*) FROM run WHERE outcome = 'ok' AND job NOT IN (SELECT job FROM run WHERE kind NOTNULL)"
    )
    assert good[0][0] >= len(DEATHS)
    (stacks,) = one.rows("SELECT DISTINCT stderr_tail LIKE '%selftest.py%' FROM run WHERE kind = ?", Kind.STALL.value)
    assert stacks == (1,)


def test_runner_stopped_by_a_signal_is_a_stall_and_its_arm_is_measured_again(
    cluster: Cluster, trial: Callable[..., Trial]
) -> None:
    pool = cluster.pool_file("stall", deadlines={"measure": 4.0})
    one = trial(pool, iters=3)
    driver = one.start()
    os.kill(one.until_a_runner_measures().pid, signal.SIGSTOP)
    assert driver.wait(240) == 0, one.said
    one.assert_complete()
    assert one.kinds_of_runs() == [(Kind.STALL.value, "signal 9 (SIGKILL)")]
