import pytest

from core.job import SelftestJob
from core.visit import Slot, Target, Visit
from workers.bench.settings import process_settings

SHELL = {
    "HOME": "/home/me",
    "TPU_VISIBLE_CHIPS": "0",
    "XLA_FLAGS": "--xla_dump_to=/tmp/x",
    "LIBTPU_INIT_ARGS": "--xla_tpu_x=1",
    "JAX_ENABLE_X64": "1",
    "JAX_COMPILATION_CACHE_DIR": "/elsewhere",
    "JAX_PLATFORMS": "cuda",
}


def visit(env: dict[str, str], target: Target) -> Visit:
    return Visit(visit=1, iters=1, warmup=0, slots=(Slot(slot=0, job=SelftestJob(env=env)),), target=target)


def test_process_settings_shell_that_steers_xla_does_not_leak():
    assert process_settings(visit({}, Target(devices=3)), SHELL) == {
        "HOME": "/home/me",
        "TPU_VISIBLE_CHIPS": "0",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
        "JAX_PLATFORMS": "cpu",
    }


def test_process_settings_job_env_wins_and_its_xla_flags_are_appended():
    env = {"XLA_FLAGS": "--xla_a=1", "LIBTPU_INIT_ARGS": "--xla_b=2", "HOME": "/h"}
    found = process_settings(visit(env, Target(devices=2)), SHELL)
    assert found["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2 --xla_a=1"
    assert (found["LIBTPU_INIT_ARGS"], found["HOME"]) == ("--xla_b=2", "/h")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_process_settings_accelerator_gets_the_jobs_flags_alone(platform):
    target = Target(platform=platform, devices=1)
    assert "XLA_FLAGS" not in process_settings(visit({}, target), SHELL)
    assert process_settings(visit({"XLA_FLAGS": "--xla_a=1"}, target), SHELL)["XLA_FLAGS"] == "--xla_a=1"
    assert process_settings(visit({}, target), SHELL)["JAX_PLATFORMS"] == platform


@pytest.mark.parametrize("env", [{}, {"XLA_FLAGS": "--xla_a=1", "B": "c"}])
def test_process_settings_applied_twice_changes_nothing_more(env):
    once = process_settings(visit(env, Target()), SHELL)
    assert process_settings(visit(env, Target()), once) == once
