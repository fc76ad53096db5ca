"""The taxonomy is whole: every kind has its meaning, a place that recognises it, and a test that it is produced."""

from pathlib import Path
from typing import NamedTuple

import pytest

from core.failures import MEANING, Blame, Effect, Kind, blame, effect

ROOT = Path(__file__).resolve().parents[2]


class Produced(NamedTuple):
    """`by`: the file that says so. `shown`: the file with a test that it happens, and the test's name."""

    by: str
    shown: tuple[str, str]


SUPERVISOR = "tests/workers/test_supervisor.py"
REAL_WORDS = "tests/workers/test_real_words.py"
PASSES = "tests/workers/bench/test_passes.py"
VERDICT = "workers/host/verdict.py"

PRODUCED: dict[Kind, Produced] = {
    # in the runner, of a job
    Kind.USER_ERROR: Produced("workers/bench/passes.py", (PASSES, "test_run_job_without_a_meaning_is_the_users_error")),
    Kind.NUMERICS: Produced(
        "workers/bench/passes.py", (PASSES, "test_run_check_that_refuses_ends_the_slot_untimed_with_its_metrics")
    ),
    Kind.COMPILE_ERROR: Produced(
        "workers/bench/faults.py", (REAL_WORDS, "test_compiler_for_a_v5p_says_which_memory_is_full")
    ),
    Kind.HBM_OOM: Produced(
        "workers/bench/faults.py", (REAL_WORDS, "test_compiler_for_a_v5p_says_which_memory_is_full")
    ),
    Kind.VMEM_OOM: Produced(
        "workers/bench/faults.py", (REAL_WORDS, "test_compiler_for_a_v5p_says_which_memory_is_full")
    ),
    # of a runner that ended
    Kind.HOST_OOM: Produced(VERDICT, (SUPERVISOR, "test_death_for_want_of_memory_is_known_by_the_kernels_own_count")),
    Kind.BAD_OUTPUT: Produced(VERDICT, (SUPERVISOR, "test_a_line_that_is_no_event_of_this_process_ends_the_runner")),
    Kind.XLA_ABORT: Produced(VERDICT, (REAL_WORDS, "test_abort_of_libtpu_is_one_of_xla")),
    Kind.CRASH: Produced(VERDICT, (SUPERVISOR, "test_death_in_a_slot_ends_its_run_and_a_fresh_runner_takes_the_rest")),
    Kind.KILLED: Produced(VERDICT, (SUPERVISOR, "test_death_in_a_slot_ends_its_run_and_a_fresh_runner_takes_the_rest")),
    Kind.STALL: Produced(VERDICT, (SUPERVISOR, "test_stall_of_the_real_runner_ends_the_run_with_its_stacks")),
    Kind.INIT_HANG: Produced(VERDICT, (SUPERVISOR, "test_stall_before_any_event_ends_the_visit_and_blames_no_run")),
    Kind.TPU_BUSY: Produced(VERDICT, (REAL_WORDS, "test_two_processes_of_libtpu_contend_for_its_lock")),
    Kind.TPU_MISSING: Produced(VERDICT, (REAL_WORDS, "test_visit_on_a_machine_without_a_tpu_blames_the_host")),
    Kind.CPU_FALLBACK: Produced(VERDICT, (REAL_WORDS, "test_fallback_to_the_cpu_is_seen")),
    Kind.WRONG_DEVICE: Produced(VERDICT, (REAL_WORDS, "test_visit_that_names_a_kind_of_device_runs_on_no_other")),
    Kind.DISK: Produced(VERDICT, (SUPERVISOR, "test_death_in_a_slot_on_a_disk_that_is_full_is_no_fault_of_the_job")),
    Kind.ENVIRONMENT_MISMATCH: Produced(
        "workers/supervisor.py", (SUPERVISOR, "test_visit_of_other_code_starts_nothing")
    ),
    Kind.ORPHANED: Produced("workers/supervisor.py", (SUPERVISOR, "test_stop_ends_the_runner_and_the_visit")),
    Kind.CANCELLED: Produced("workers/supervisor.py", (SUPERVISOR, "test_stop_ends_the_runner_and_the_visit")),
    Kind.WORKER_LOST: Produced(
        "workers/host/recovery.py",
        ("tests/workers/host/test_spool.py", "test_open_spool_ends_the_unfinished_visit_after_its_runner"),
    ),
    # in the controller, of a host
    Kind.HOST_LOST: Produced(
        "orchestrator/controller.py",
        ("tests/orchestrator/test_plan.py", "test_plan_with_a_host_that_left_the_pool_gives_its_visit_up"),
    ),
    Kind.RAYLET_LOST: Produced(
        "orchestrator/fleet.py",
        ("tests/orchestrator/test_fleet.py", "test_fleet_knows_a_killed_raylet_a_stopped_one_and_a_preempted_node"),
    ),
    Kind.PREEMPTED: Produced(
        "orchestrator/fleet.py",
        ("tests/orchestrator/test_fleet.py", "test_fleet_knows_a_killed_raylet_a_stopped_one_and_a_preempted_node"),
    ),
    Kind.SSH_UNREACHABLE: Produced(
        "orchestrator/revival.py",
        ("tests/orchestrator/test_revival.py", "test_raylet_that_is_another_stays_the_reason_until_the_host_answers"),
    ),
    Kind.SUPERSEDED: Produced(
        "core/ledger/settling.py",
        ("tests/core/ledger/test_settling.py", "test_lost_visit_that_finishes_first_wins_and_the_other_is_superseded"),
    ),
}


def test_every_kind_is_produced_somewhere() -> None:
    assert set(PRODUCED) == set(Kind)


@pytest.mark.parametrize("kind", list(PRODUCED))
def test_kind_is_produced_where_it_is_said_to_be(kind: Kind) -> None:
    by, (file, test) = PRODUCED[kind]
    assert f"Kind.{kind.name}" in (ROOT / by).read_text()
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_meaning_that_fits(kind: Kind) -> None:
    meaning = MEANING[kind]
    assert (blame(kind), effect(kind)) == (meaning.blame, meaning.effect)
    # only what is the host's own does anything to it
    assert meaning.effect is Effect.NOTHING or meaning.blame is Blame.HOST
    # one sentence: what it is, then what comes next
    assert ": " in meaning.advice
    assert not meaning.advice.endswith(".")


def test_kind_of_an_older_ledger_is_read_and_no_other_word_is() -> None:
    assert Kind("out_of_memory") is Kind.HBM_OOM
    with pytest.raises(ValueError, match="nonsense"):
        Kind("nonsense")
