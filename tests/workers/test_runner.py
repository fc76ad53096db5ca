"""The runner as a process: real visits in, events out, and the ends it can come to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.events import RUNNER_EVENT, Compiled, Environment, Metric, PhaseBegan, RunEnded, Samples
from core.failures import Kind
from workers.selftest import BAD_LINE

RUNNER = [sys.executable, "-m", "workers.runner"]
DEADLINE_S = 60
MOE = {"kind": "moe_block", "tokens": 48, "hidden": 16, "mlp_dim": 24, "experts": 4, "topk": 2, "dtype": "float32"}


def write(path: Path, *jobs: dict, **fields) -> Path:
    slots = [{"slot": slot, "job": job} for slot, job in enumerate(jobs)]
    path.write_text(json.dumps({"visit": 1, "iters": 3, "warmup": 1, "slots": slots, **fields}))
    return path


@pytest.fixture
def visit(tmp_path):
    return lambda *jobs, **fields: write(tmp_path / "visit.json", *jobs, **fields)


def selftest(**fields) -> dict:
    return {"kind": "selftest", **fields}


def run(visit: Path, *options: str, env: dict[str, str] | None = None):
    """The finished runner, its events and its exit status; events travel over a descriptor of their own."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*RUNNER, str(visit), "--events", str(writer), *options],
        pass_fds=(writer,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = lines.read().splitlines()
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, said, stdout, stderr


def events(lines: list[str]) -> list:
    return [RUNNER_EVENT.validate_json(line) for line in lines]


def of(kind: type, said: list) -> list:
    return [event for event in said if isinstance(event, kind)]


def test_runner_moe_visit_is_measured_and_the_second_time_compiled_from_the_cache(visit, tmp_path):
    jobs = [
        {**MOE, "backend": backend, "impl": "fused_w13", "bench_pass": "forward_backward"}
        for backend in ("ragged_dot", "blocked")
    ]
    path = visit(*jobs, target={"platform": "cpu", "devices": 2})
    options = ("--cache", str(tmp_path / "cache"), "--process", "3")
    code, lines, stdout, stderr = run(path, *options, env={"XLA_FLAGS": "--xla_force_host_platform_device_count=9"})
    assert (code, stdout) == (0, ""), stderr
    said = events(lines)
    found = of(Environment, said)[0]
    assert (found.process, found.facts["device_count"], found.facts["platform"]) == (3, "2", "cpu")
    assert [end.outcome for end in of(RunEnded, said)] == ["ok", "ok"]
    assert [len(samples.wall_ns) for samples in of(Samples, said)] == [3, 3]
    assert all(wall_ns > 0 for samples in of(Samples, said) for wall_ns in samples.wall_ns)
    first, second = of(Compiled, said)
    assert (first.cached, second.cached) == (False, False)
    assert first.inputs == second.inputs
    assert first.program != second.program
    metrics = {(metric.name, metric.scope): metric.value for metric in of(Metric, said) if metric.slot == 1}
    assert metrics["load_mean", ""] == 24
    assert metrics["rel_error", "dw2"] < 1e-6
    assert metrics["worst_error", "dx"] < 2e-6

    again = events(run(path, *options)[1])
    assert [compiled.cached for compiled in of(Compiled, again)] == [True, True]
    assert [compiled.program for compiled in of(Compiled, again)] == [first.program, second.program]
    assert [end.outcome for end in of(RunEnded, again)] == ["ok", "ok"]


def test_runner_wrong_device_count_ends_the_process_and_blames_no_slot(visit):
    job = {**MOE, "backend": "blocked", "env": {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}}
    code, lines, _, stderr = run(visit(job, {**job, "seed": 1}, target={"platform": "cpu", "devices": 2}))
    assert (code, of(RunEnded, events(lines))) == (1, [])
    assert stderr.splitlines()[-1] == "wrong device: the visit asks for 2 cpu devices, JAX shows 5 cpu"


@pytest.mark.parametrize("claim", [[], ["--claim"]])
def test_runner_platform_that_does_not_start_is_a_wrong_device(visit, claim):
    job = {**MOE, "backend": "blocked"}
    code, lines, _, stderr = run(visit(job, target={"platform": "cuda", "devices": 1}), *claim)
    assert (code, of(RunEnded, events(lines))) == (1, [])
    assert stderr.splitlines()[-1] == "wrong device: cuda does not start: no JAX plugin for it is installed"


def test_runner_that_only_claims_its_devices_measures_nothing(visit):
    code, lines, _, stderr = run(visit(selftest(), target={"platform": "cpu", "devices": 2}), "--claim")
    assert (code, lines) == (0, []), stderr


def test_runner_job_without_a_meaning_fails_alone(visit):
    jobs = [{**MOE, "backend": "blocked", "topk": 5}, selftest()]
    code, lines, _, stderr = run(visit(*jobs))
    assert code == 0, stderr
    assert [(end.slot, end.outcome, end.kind) for end in of(RunEnded, events(lines))] == [
        (0, "failed", Kind.USER_ERROR),
        (1, "ok", None),
    ]


def test_runner_selftest_ends_ok_without_jax(visit, tmp_path):
    # a jax that cannot be imported stands before the real one
    (tmp_path / "jax.py").write_text("raise ImportError('a selftest imports JAX')")
    job = selftest(sleep_s=0.01)
    code, lines, _, stderr = run(visit(job, {**job, "seed": 1}), env={"PYTHONPATH": str(tmp_path)})
    assert code == 0, stderr
    said = events(lines)
    assert [phase.phase.value for phase in of(PhaseBegan, said) if phase.slot is None] == ["start", "init"]
    assert [end.outcome for end in of(RunEnded, said)] == ["ok", "ok"]
    assert min(of(Samples, said)[0].wall_ns) >= 10_000_000


@pytest.mark.parametrize("phase", ["inputs", "lower", "compile", "check", "warmup", "measure"])
def test_runner_selftest_exit_ends_the_process_in_its_phase(visit, phase):
    code, lines, _, _ = run(visit(selftest(end="exit", exit_code=17, phase=phase), selftest()))
    assert code == 17
    said = events(lines)
    assert (said[-1].slot, said[-1].phase.value) == (0, phase)
    assert of(RunEnded, said) == []


def test_runner_selftest_signal_ends_the_process_by_it(visit):
    assert run(visit(selftest(end="signal", signal=11)))[0] == -signal.SIGSEGV


def test_runner_selftest_bad_output_is_a_line_that_is_no_event(visit):
    code, lines, _, _ = run(visit(selftest(end="bad_output")))
    assert code == 0
    assert lines.count(BAD_LINE) == 1
    assert of(RunEnded, events([line for line in lines if line != BAD_LINE]))[0].outcome == "ok"


def hanging(visit: Path, *options: str, **popen) -> subprocess.Popen:
    """A runner that has reached the hang of its only slot."""
    process = subprocess.Popen(
        [*RUNNER, str(visit), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )
    assert process.stdout is not None
    while '"phase":"measure"' not in process.stdout.readline():
        assert process.poll() is None
    return process


def test_runner_selftest_hang_shows_its_stacks_and_dies_of_sigterm(visit):
    runner = hanging(visit(selftest(end="hang")))
    try:
        deadline = time.monotonic() + DEADLINE_S
        while "selftest.py" not in _stacks(runner):
            # it had said that it measures, and was not in its hang yet
            assert time.monotonic() < deadline
        assert runner.poll() is None
        runner.terminate()
        assert runner.wait(DEADLINE_S) == -signal.SIGTERM
    finally:
        runner.kill()
        runner.communicate()


def _stacks(runner: subprocess.Popen) -> str:
    """What it writes when it is asked for its stacks: up to the frame of `main`, and of the module below it."""
    runner.send_signal(signal.SIGUSR1)
    assert runner.stderr is not None
    stacks = ""
    while "runner.py" not in stacks or "<module>" not in stacks:
        stacks += runner.stderr.readline()
    return stacks


PARENT = """
import os, subprocess, sys
runner = subprocess.Popen([*sys.argv[1:], "--die-with-parent", str(os.getpid())], stdout=subprocess.PIPE, text=True)
while '"phase":"measure"' not in runner.stdout.readline(): pass
print(runner.pid, flush=True)
sys.stdin.read()
"""


def test_runner_whose_parent_is_killed_dies_with_it(visit):
    path = visit(selftest(end="hang", env={"A": "b"}))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *RUNNER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    runner = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + DEADLINE_S
    try:
        while _runs(runner):
            assert time.monotonic() < deadline, f"runner {runner} outlived its parent"
            time.sleep(0.01)
    finally:
        if _runs(runner):
            os.kill(runner, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_runner_process_settings_hold_from_the_start_and_the_shells_do_not_leak(visit):
    path = visit(selftest(end="hang", env={"PYTHONHASHSEED": "5", "XLA_FLAGS": "--xla_a=1"}))
    shell = {"XLA_FLAGS": "--xla_leak=1", "JAX_ENABLE_X64": "1", "LIBTPU_INIT_ARGS": "--leak", "KEPT": "yes"}
    runner = hanging(path, env={**os.environ, **shell})
    try:
        # the environment the process was executed with, not what it made of it since
        block = Path(f"/proc/{runner.pid}/environ").read_text().split("\0")
        environment = dict(line.split("=", 1) for line in block if line)
        assert environment["XLA_FLAGS"] == "--xla_force_host_platform_device_count=4 --xla_a=1"
        assert (environment["JAX_PLATFORMS"], environment["PYTHONHASHSEED"], environment["KEPT"]) == ("cpu", "5", "yes")
        assert {"JAX_ENABLE_X64", "LIBTPU_INIT_ARGS"}.isdisjoint(environment)
    finally:
        runner.kill()
        runner.communicate()


def test_runner_without_a_reader_ends(visit):
    reader, writer = os.pipe()
    os.close(reader)
    command = [*RUNNER, str(visit(selftest())), "--events", str(writer)]
    runner = subprocess.run(command, pass_fds=(writer,), capture_output=True, text=True, timeout=DEADLINE_S)
    os.close(writer)
    assert runner.returncode == 1
    assert "BrokenPipeError" in runner.stderr


def spoiled(job: str = '{"kind": "selftest"}', **fields: object) -> str:
    """The text of a visit that is sound but for what is passed; a field that is None is left out."""
    sound = {"visit": 1, "iters": 1, "warmup": 0, "slots": [{"slot": 0, "job": "JOB"}]}
    kept = {name: value for name, value in {**sound, **fields}.items() if value is not None}
    return json.dumps(kept).replace('"JOB"', job)


TWO_CODES = [{"slot": 0, "job": selftest()}, {"slot": 1, "job": selftest(code="0" * 40)}]
TWO_ENVS = [{"slot": 0, "job": selftest()}, {"slot": 1, "job": selftest(env={"A": "b"})}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["Invalid JSON"]),
        ('{"visit": 1,', ["Invalid JSON", "write the visit as one JSON object"]),
        ("[]", ["[]"]),
        (spoiled(slots=[]), ["slots", "[]"]),
        (spoiled(iters=0), ["iters = 0"]),
        (spoiled(iters="3"), ["iters = '3'"]),
        (spoiled(iters=None), ["iters is missing; add it"]),
        (spoiled(colour=2), ["colour = 2 is not a key a visit has; remove it"]),
        (spoiled('{"kind": "nothing"}'), ["slots.0.job", "nothing", "moe_block"]),
        (spoiled('{"kind": "selftest", "sleep_s": NaN}'), ["slots.0.job.sleep_s", "nan"]),
        (spoiled('{"kind": "selftest", "env": {"PATH": "/"}}'), ["slots.0.job.env", "PATH is set by the host"]),
        (spoiled(slots=TWO_ENVS), ["slot = 0 and 1 differ in job.env", "write a visit for each"]),
        (spoiled(slots=TWO_CODES), ["slot = 0 and 1 differ in job.code", "write a visit for each"]),
    ],
)
def test_runner_visit_that_is_none_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "visit.json"
    path.write_text(text)
    code, lines, _, stderr = run(path)
    assert (code, lines) == (2, [])
    assert stderr.count("\n") == 1
    for word in [str(path), *words]:
        assert word in stderr


@pytest.mark.parametrize("path", ["/nowhere/visit.json", "/"])
def test_runner_visit_that_cannot_be_read_is_refused_in_one_line(path):
    code, lines, _, stderr = run(Path(path))
    assert (code, lines) == (2, [])
    assert stderr.startswith(f"{path}: cannot be read (")
    assert stderr.count("\n") == 1
