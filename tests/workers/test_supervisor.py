"""The supervisor with real children.

Most of them are `scripted`: a small runner that executes the Python code in its job's env, with a few words for events.
The others are the real runner with selftest jobs.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.events import (
    Environment,
    HostFault,
    PhaseBegan,
    Probed,
    RunEnded,
    RunnerBegan,
    RunnerExited,
    Samples,
    VisitEnded,
)
from core.failures import Kind
from core.job import SelftestJob
from core.visit import Deadlines, Phase, Slot, Target, Visit
from tests.processes import stat
from tests.workers.conftest import MemoryCgroup
from tests.workers.stuck import StuckFiles
from workers import supervisor as supervisor_module
from workers.host.code import RUNNER, Codes
from workers.host.holders import Places
from workers.host.marks import Marks, Whose
from workers.host.probe import probe
from workers.host.process import Identity, identify, is_alive
from workers.supervisor import Stop, Supervisor, Workplace

SCRIPTED = """
import argparse, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("visit"); parser.add_argument("--events", type=int); parser.add_argument("--cache")
parser.add_argument("--process", type=int); parser.add_argument("--die-with-parent", type=int)
options = parser.parse_args()
visit = json.load(open(options.visit))
slots = [slot["slot"] for slot in visit["slots"]]
def write(text): os.write(options.events, text.encode())
def say(event, **fields): write(json.dumps({"event": event, **fields}) + "\\n")
def phase(slot, name): say("phase", slot=slot, phase=name)
def ok(slot):
    phase(slot, "measure"); say("samples", slot=slot, wall_ns=[1, 2]); say("run_ended", slot=slot, outcome="ok")
def sleep():
    while True: time.sleep(600)
exec(os.environ["SCRIPT"])
"""

CLEAN = Probed(clean=True)
HOST_CODE = "code of this host"


class FakeJournal:
    """Keeps the events in memory."""

    def __init__(self) -> None:
        self.broken = ""
        self.began = False
        self.bodies: list[object] = []
        self._written = asyncio.Event()

    async def begin(self) -> None:
        self.began = True

    async def write(self, *bodies: object) -> None:
        assert self.began, "an event before the visit's beginning"
        await asyncio.sleep(0)
        self.bodies += bodies
        self._written.set()

    def of(self, kind: type) -> list:
        return [body for body in self.bodies if isinstance(body, kind)]

    async def until(self, kind: type, count: int = 1) -> None:
        async with asyncio.timeout(20):
            while sum(isinstance(body, kind) for body in self.bodies) < count:
                self._written.clear()
                await self._written.wait()


class Bench:
    """Supervisors at a workplace with fakes around it."""

    def __init__(self, root: Path) -> None:
        script = root / "scripted.py"
        script.write_text(SCRIPTED)
        self.lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (root / "scratch").mkdir()
        self.probes: list[Probed] = []
        self.workplace = Workplace(
            scratch=root / "scratch",
            lock_descriptor=self.lock,
            marks=Marks(root / "runners"),
            grace_s=0.3,
            probe=self._probe,
            codes=Codes(root / "cache", root / "bundles", (sys.executable, str(script)), lambda: HOST_CODE),
        )
        self.journal = FakeJournal()

    async def _probe(self) -> Probed:
        return self.probes.pop(0) if self.probes else CLEAN

    async def look(self) -> Probed:
        """What there really is to see."""
        marks, root = self.workplace.marks, self.workplace.scratch
        return await asyncio.to_thread(probe, Target(), root, Places(), marks)

    def supervisor(self, *scripts: str, deadline_s: float = 20.0, code: str = "") -> Supervisor:
        """A visit of one slot for each script; slots of equal scripts share a process."""
        jobs = [SelftestJob(env={"SCRIPT": script}, seed=seed) for seed, script in enumerate(scripts)]
        return self.of_jobs(*jobs, deadline_s=deadline_s, code=code)

    def of_jobs(self, *jobs: SelftestJob, deadline_s: float = 20.0, code: str = "") -> Supervisor:
        deadlines = Deadlines(**{phase.value: deadline_s for phase in Phase})
        slots = tuple(Slot(slot=number, job=job) for number, job in enumerate(jobs))
        visit = Visit(visit=3, slots=slots, iters=2, warmup=1, deadlines=deadlines, code=code)
        return Supervisor(visit, self.journal, self.workplace)

    async def run(self, *scripts: str, deadline_s: float = 20.0, code: str = "") -> VisitEnded:
        return await self.finish(self.supervisor(*scripts, deadline_s=deadline_s, code=code))

    async def finish(self, supervisor: Supervisor) -> VisitEnded:
        async with asyncio.timeout(60):
            await supervisor.run()
        (end,) = self.journal.of(VisitEnded)
        assert self.journal.bodies[-1] is end
        began, exited = self.journal.of(RunnerBegan), self.journal.of(RunnerExited)
        assert [e.process for e in began] == [e.process for e in exited] == list(range(1, len(began) + 1))
        for runner in began:
            assert not is_alive(Identity(runner.pid, runner.start_time))
        assert list(self.workplace.scratch.iterdir()) == []
        ended = [e.slot for e in self.journal.of(RunEnded)]
        assert len(ended) == len(set(ended)), "a run ended twice"
        return end


@pytest.fixture
def bench(tmp_path: Path):
    bench = Bench(tmp_path)
    yield bench
    os.close(bench.lock)


@pytest.fixture
def real(bench: Bench) -> Bench:
    """The real runner instead of scripts."""
    bench.workplace = replace(bench.workplace, codes=replace(bench.workplace.codes, command=RUNNER))
    return bench


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


def runner_of(journal: FakeJournal) -> Identity:
    began = journal.of(RunnerBegan)[-1]
    return Identity(began.pid, began.start_time)


# -- a visit


async def test_visit_of_the_real_runner_finishes_with_its_samples(real: Bench) -> None:
    end = await real.finish(real.of_jobs(SelftestJob(), SelftestJob(seed=1)))
    assert end == VisitEnded(state="finished")
    assert [(e.slot, len(e.wall_ns)) for e in real.journal.of(Samples)] == [(0, 2), (1, 2)]
    assert [(e.slot, e.outcome) for e in real.journal.of(RunEnded)] == [(0, "ok"), (1, "ok")]
    (environment,) = real.journal.of(Environment)
    assert environment.facts["code"] == HOST_CODE
    (began,) = real.journal.of(RunnerBegan)
    assert began.slots == (0, 1)
    assert [e.exit_status for e in real.journal.of(RunnerExited)] == ["exit 0"]


async def test_visit_with_two_envs_runs_a_process_for_each_in_order_of_appearance(real: Bench) -> None:
    one, other = {"A": "1"}, {"A": "2"}
    jobs = [SelftestJob(env=env, seed=seed) for seed, env in enumerate((one, other, one, other))]
    await real.finish(real.of_jobs(*jobs))
    assert [e.slots for e in real.journal.of(RunnerBegan)] == [(0, 2), (1, 3)]
    assert [e.slot for e in real.journal.of(RunEnded)] == [0, 2, 1, 3]
    assert len(real.journal.of(Probed)) == 2


async def test_visit_runner_inherits_no_setting_of_ray_or_the_shell(bench: Bench, monkeypatch) -> None:
    for name in ("RAY_ADDRESS", "JAX_ENABLE_X64", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "from outside")
    monkeypatch.setenv("HOME_OF_TEST", "kept")
    end = await bench.run("say('environment', process=1, facts=dict(os.environ)); ok(0)")
    assert end.state == "finished"
    (environment,) = bench.journal.of(Environment)
    assert "from outside" not in environment.facts.values()
    assert environment.facts["HOME_OF_TEST"] == "kept"
    assert environment.facts["JAX_PLATFORMS"] == "cpu"


async def test_visit_of_other_code_starts_nothing(bench: Bench) -> None:
    end = await bench.run("ok(0)", code="other code")
    assert (end.state, end.kind) == ("failed", Kind.ENVIRONMENT_MISMATCH)
    assert bench.journal.bodies == [end]


async def test_visit_of_the_same_code_starts(bench: Bench) -> None:
    assert (await bench.run("ok(0)", code=HOST_CODE)).state == "finished"


async def test_visit_on_a_host_that_is_not_clean_starts_nothing(bench: Bench) -> None:
    dirty = Probed(clean=False, kind=Kind.TPU_BUSY, reason="pid 7 holds it")
    bench.probes = [dirty]
    end = await bench.run("ok(0)")
    assert (end.state, end.kind, end.reason) == ("failed", Kind.TPU_BUSY, "pid 7 holds it")
    assert bench.journal.bodies == [dirty, end]


async def test_visit_whose_host_is_not_clean_after_a_death_gets_no_second_runner(bench: Bench) -> None:
    bench.probes = [CLEAN, Probed(clean=False, kind=Kind.TPU_BUSY, reason="held")]
    end = await bench.run(*["phase(slots[0], 'check'); os._exit(1)"] * 2)
    assert (end.kind, end.reason) == (Kind.TPU_BUSY, "held")
    assert len(bench.journal.of(RunnerBegan)) == 1


async def test_visit_whose_runner_cannot_be_started_fails_with_a_fault(bench: Bench) -> None:
    bench.workplace = replace(bench.workplace, codes=replace(bench.workplace.codes, command=("/no/such/program",)))
    end = await bench.run("ok(0)")
    assert (end.state, end.kind) == ("failed", Kind.WORKER_LOST)
    (fault,) = bench.journal.of(HostFault)
    assert "/no/such/program" in fault.detail


# -- deaths


@pytest.mark.parametrize(
    ("job", "exit_status", "kind"),
    [
        (SelftestJob(end="exit", exit_code=1, phase="compile"), "exit 1", Kind.CRASH),
        (SelftestJob(end="exit", exit_code=134, phase="check"), "exit 134", Kind.CRASH),
        (SelftestJob(end="exit", exit_code=137, phase="warmup"), "exit 137", Kind.KILLED),
        (SelftestJob(end="signal", signal=6, phase="lower"), "signal 6 (SIGABRT)", Kind.CRASH),
        (SelftestJob(end="signal", signal=9, phase="measure"), "signal 9 (SIGKILL)", Kind.KILLED),
        (SelftestJob(end="signal", signal=11, phase="inputs"), "signal 11 (SIGSEGV)", Kind.CRASH),
        (SelftestJob(end="signal", signal=15, phase="measure"), "signal 15 (SIGTERM)", Kind.KILLED),
    ],
)
async def test_death_in_a_slot_ends_its_run_and_a_fresh_runner_takes_the_rest(
    real: Bench, job: SelftestJob, exit_status: str, kind: Kind
) -> None:
    end = await real.finish(real.of_jobs(SelftestJob(), job, SelftestJob(seed=1)))
    assert end.state == "finished"
    runs = {e.slot: e for e in real.journal.of(RunEnded)}
    assert (runs[1].outcome, runs[1].kind, runs[1].exit_status) == ("failed", kind, exit_status)
    assert runs[1].phase == job.phase
    assert (runs[0].outcome, runs[2].outcome) == ("ok", "ok")
    first, second = real.journal.of(RunnerBegan)
    assert first.slots == (0, 1, 2)
    assert 1 not in second.slots
    assert [e.exit_status for e in real.journal.of(RunnerExited)] == [exit_status, "exit 0"]


async def test_death_a_second_time_ends_the_visit(real: Bench) -> None:
    dying = [SelftestJob(end="exit", exit_code=3, phase="compile", seed=seed) for seed in range(3)]
    end = await real.finish(real.of_jobs(*dying))
    assert (end.state, end.kind) == ("failed", Kind.CRASH)
    assert [e.slot for e in real.journal.of(RunEnded)] == [0, 1]
    assert len(real.journal.of(RunnerBegan)) == 2


async def test_death_after_every_run_has_ended_costs_nothing(bench: Bench) -> None:
    end = await bench.run("ok(0); os.kill(os.getpid(), signal.SIGSEGV)")
    assert end == VisitEnded(state="finished")
    assert [e.exit_status for e in bench.journal.of(RunnerExited)] == ["signal 11 (SIGSEGV)"]


async def test_death_of_a_start_is_known_by_its_words(bench: Bench) -> None:
    words = "TPU initialization failed: open(/dev/vfio/0): Device or resource busy"
    end = await bench.run(f"phase(None, 'init'); sys.exit({words!r})")
    assert (end.state, end.kind) == ("failed", Kind.TPU_BUSY)
    assert end.reason == f"the runner died in init: exit 1; {words}"
    assert bench.journal.of(RunEnded) == []


async def test_death_in_a_slot_on_a_disk_that_is_full_is_no_fault_of_the_job(bench: Bench) -> None:
    await bench.run("phase(0, 'inputs'); open('/dev/full', 'w', buffering=1).write('x\\n')")
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, run.phase, run.exit_status) == (Kind.DISK, Phase.INPUTS, "exit 1")


# An actor of its own in the cgroup, since a runner is born where its actor is, and the tests' process is far larger.
IN_CGROUP = """
import asyncio, os, sys
from pathlib import Path
from core.events import RunEnded
from tests.workers.test_supervisor import Bench
Path(sys.argv[1]).write_text(str(os.getpid()))
bench = Bench(Path(sys.argv[2]))
end = asyncio.run(bench.run(*sys.argv[3:]))
print(end.model_dump_json(), *(said.model_dump_json() for said in bench.journal.of(RunEnded)), sep="\\n")
"""


@pytest.mark.slow
def test_death_for_want_of_memory_is_known_by_the_kernels_own_count(
    tmp_path: Path, memory_cgroup: MemoryCgroup
) -> None:
    eats = f"phase(0, 'inputs'); {memory_cgroup.eat}"
    killed = "phase(1, 'inputs'); os.kill(os.getpid(), signal.SIGKILL)"
    procs = memory_cgroup.folder / "cgroup.procs"
    command = [sys.executable, "-c", IN_CGROUP, str(procs), str(tmp_path), eats, killed, "ok(2)"]
    actor = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    said, *ended = actor.stdout.splitlines()
    end = VisitEnded.model_validate_json(said)
    assert (end.state, end.kind) == ("failed", Kind.KILLED)
    eaten, shot = map(RunEnded.model_validate_json, ended)
    assert (eaten.kind, eaten.exit_status) == (Kind.HOST_OOM, "signal 9 (SIGKILL)")
    assert "Killed process" in eaten.reason or "more oom_kill" in eaten.reason
    # the same signal, and no evidence
    assert (shot.kind, shot.exit_status) == (Kind.KILLED, "signal 9 (SIGKILL)")


async def test_death_before_any_slot_is_a_strike_against_each_and_ends_the_visit(bench: Bench) -> None:
    end = await bench.run("print('no such flag', file=sys.stderr); phase(None, 'init'); sys.exit(1)")
    assert (end.state, end.kind) == ("failed", Kind.CRASH)
    (run,) = bench.journal.of(RunEnded)
    assert (run.outcome, run.kind, run.phase) == ("failed", Kind.CRASH, Phase.INIT)
    (exited,) = bench.journal.of(RunnerExited)
    assert "no such flag" in exited.stderr_tail


async def test_kill_from_outside_before_any_slot_is_a_strike_against_one(bench: Bench) -> None:
    killed = {"SCRIPT": "phase(None, 'init'); os.kill(os.getpid(), signal.SIGKILL)"}
    end = await bench.finish(bench.of_jobs(*(SelftestJob(env=killed, seed=seed) for seed in range(3))))
    assert (end.state, end.kind) == ("failed", Kind.KILLED)
    assert [(e.slot, e.kind) for e in bench.journal.of(RunEnded)] == [(0, Kind.KILLED)]


async def test_kill_at_the_start_of_a_second_runner_is_the_second_death_and_no_strike(bench: Bench) -> None:
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    second = {"SCRIPT": f"if options.process == 1: phase(slots[0], 'compile')\n{kill}"}
    end = await bench.finish(bench.of_jobs(*(SelftestJob(env=second, seed=seed) for seed in range(3))))
    assert (end.state, end.kind) == ("failed", Kind.KILLED)
    assert [e.process for e in bench.journal.of(RunnerExited)] == [1, 2]
    assert [(e.slot, e.kind, e.phase) for e in bench.journal.of(RunEnded)] == [(0, Kind.KILLED, Phase.COMPILE)]


STILLBORN = "print('no such flag', file=sys.stderr); phase(None, 'init'); sys.exit(1)"


@pytest.mark.parametrize("bad", [0, 1])
async def test_settings_that_let_no_runner_start_fail_their_own_slots_only(bench: Bench, bad: int) -> None:
    scripts = ["ok(slots[0])", "ok(slots[0])  # other settings"]
    scripts[bad] = STILLBORN
    end = await bench.run(*scripts)
    assert end.state == "finished"
    ended = {e.slot: e for e in bench.journal.of(RunEnded)}
    assert ended[1 - bad].outcome == "ok"
    assert (ended[bad].outcome, ended[bad].kind, ended[bad].phase) == ("failed", Kind.CRASH, Phase.INIT)
    assert "SCRIPT=" in ended[bad].reason
    assert "no such flag" in ended[bad].stderr_tail


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("wrong device: the visit asks for 4 cpu devices, JAX shows 5 cpu", Kind.CRASH),
        ("TPU initialization failed: open(/dev/vfio/0): Device or resource busy", Kind.TPU_BUSY),
    ],
)
async def test_settings_are_blamed_for_what_they_can_bring_about_and_once_only(
    bench: Bench, words: str, kind: Kind
) -> None:
    """A host that starts the others has the right devices: the arm has one more attempt, not one on every host."""
    end = await bench.run(f"phase(None, 'init'); sys.exit({words!r})", "ok(slots[0])")
    assert end.state == "finished"
    ended = {e.slot: e for e in bench.journal.of(RunEnded)}
    assert (ended[0].outcome, ended[0].kind, ended[0].phase) == ("failed", kind, Phase.INIT)
    assert ended[1].outcome == "ok"


async def test_death_before_any_slot_with_all_settings_fails_the_visit(bench: Bench) -> None:
    end = await bench.run(STILLBORN, STILLBORN + "  # other settings")
    assert (end.state, end.kind) == ("failed", Kind.CRASH)
    assert [(run.slot, run.kind) for run in bench.journal.of(RunEnded)] == [(0, Kind.CRASH), (1, Kind.CRASH)]
    assert len(bench.journal.of(RunnerExited)) == 2


async def test_death_before_any_slot_that_is_the_hosts_for_one_is_no_strike_against_the_others(bench: Bench) -> None:
    busy = "phase(None, 'init'); sys.exit('open(/dev/vfio/0): Device or resource busy')"
    end = await bench.run(STILLBORN, busy)
    assert (end.state, end.kind) == ("failed", Kind.TPU_BUSY)
    assert bench.journal.of(RunEnded) == []


async def test_death_between_two_slots_blames_no_run_and_a_fresh_runner_takes_the_rest(bench: Bench) -> None:
    script = "ok(slots[0]); os._exit(1) if options.process == 1 else None; [ok(slot) for slot in slots[1:]]"
    end = await bench.run(script, script)
    assert end.state == "finished"
    assert [(e.slot, e.outcome) for e in bench.journal.of(RunEnded)] == [(0, "ok"), (1, "ok")]
    assert [e.slots for e in bench.journal.of(RunnerBegan)] == [(0, 1), (1,)]


async def test_death_takes_what_was_said_before_it(bench: Bench) -> None:
    script = "phase(0, 'measure'); [say('samples', slot=0, first=i, wall_ns=[1]) for i in range(2000)]; os._exit(1)"
    await bench.run(script)
    assert len(bench.journal.of(Samples)) == 2000


async def test_death_has_both_ends_of_a_long_stderr(bench: Bench) -> None:
    script = "phase(0, 'check'); [print('line', i, file=sys.stderr) for i in range(9000)]; os._exit(1)"
    await bench.run(script)
    (run,) = bench.journal.of(RunEnded)
    assert run.stderr_tail.startswith("line 0\n")
    assert run.stderr_tail.endswith("line 8999\n")
    assert len(run.stderr_tail) <= 16_384


async def test_exit_75_after_a_slot_is_no_death(bench: Bench) -> None:
    script = "ok(slots[0]); sys.exit(75 if len(slots) > 1 else 0)"
    end = await bench.run(*[script] * 4)
    assert end.state == "finished"
    assert [e.slots for e in bench.journal.of(RunnerBegan)] == [(0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)]


async def test_exit_75_without_a_slot_is_a_death(bench: Bench) -> None:
    end = await bench.run("phase(0, 'inputs'); sys.exit(75)")
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, end.state) == (Kind.CRASH, "finished")


async def test_exit_0_with_slots_left_is_bad_output(bench: Bench) -> None:
    end = await bench.run("sys.exit(0)")
    assert (end.state, end.kind) == ("failed", Kind.BAD_OUTPUT)


@pytest.mark.parametrize(
    "line",
    [
        "write('hello\\n')",
        "say('visit_ended', state='finished')",
        "say('run_ended', slot=7, outcome='ok')",
        "write('x' * (3 << 20))",
        "ok(0); ok(0)",
    ],
)
async def test_a_line_that_is_no_event_of_this_process_ends_the_runner(bench: Bench, line: str) -> None:
    end = await bench.run(f"phase(0, 'check'); {line}; sleep()", "ok(1)")
    runs = {e.slot: e for e in bench.journal.of(RunEnded)}
    assert runs[1].outcome == "ok"
    if line.startswith("ok"):
        assert runs[0].outcome == "ok"
    else:
        assert (runs[0].outcome, runs[0].kind) == ("failed", Kind.BAD_OUTPUT)
    assert end.state == "finished"


async def test_a_torn_last_line_of_a_death_is_not_bad_output(bench: Bench) -> None:
    await bench.run("phase(0, 'check'); write('{\"event\": \"sam'); os._exit(9)")
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, run.exit_status) == (Kind.CRASH, "exit 9")


# -- stalls


async def test_stall_of_the_real_runner_ends_the_run_with_its_stacks(real: Bench) -> None:
    hanging = SelftestJob(end="hang", phase="compile")
    end = await real.finish(real.of_jobs(hanging, SelftestJob(), deadline_s=8.0))
    assert end.state == "finished"
    runs = {e.slot: e for e in real.journal.of(RunEnded)}
    assert (runs[0].outcome, runs[0].kind, runs[0].phase) == ("failed", Kind.STALL, Phase.COMPILE)
    assert "most recent call first" in runs[0].stderr_tail
    assert "selftest.py" in runs[0].stderr_tail
    assert runs[1].outcome == "ok"


async def test_stall_of_a_stopped_runner_is_killed(bench: Bench) -> None:
    supervisor = bench.supervisor("phase(0, 'measure'); sleep()", deadline_s=1.0)
    running = asyncio.create_task(bench.finish(supervisor))
    await bench.journal.until(PhaseBegan)
    os.kill(runner_of(bench.journal).pid, signal.SIGSTOP)
    await running
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, run.exit_status) == (Kind.STALL, "signal 9 (SIGKILL)")


async def test_stall_of_a_runner_that_holds_the_gil_is_ended(bench: Bench) -> None:
    busy = "import re; phase(0, 'compile'); re.match('(a+)+$', 'a' * 60 + 'b')"
    await bench.run(busy, deadline_s=1.0)
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, run.phase) == (Kind.STALL, Phase.COMPILE)


async def test_stall_of_a_runner_that_ignores_term_is_killed_after_the_grace(bench: Bench) -> None:
    deaf = "import faulthandler; faulthandler.register(signal.SIGUSR1); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    await bench.run(f"{deaf}; phase(0, 'measure'); sleep()", deadline_s=1.0)
    (run,) = bench.journal.of(RunEnded)
    assert (run.kind, run.exit_status) == (Kind.STALL, "signal 9 (SIGKILL)")
    assert "in sleep" in run.stderr_tail


async def test_stall_before_any_event_ends_the_visit_and_blames_no_run(bench: Bench) -> None:
    end = await bench.run("sleep()", deadline_s=1.0)
    assert (end.state, end.kind) == ("failed", Kind.INIT_HANG)
    assert bench.journal.of(RunEnded) == []


async def test_stall_of_a_start_on_a_busy_host_is_the_hosts_and_not_the_slots(bench: Bench) -> None:
    held = Probed(clean=False, kind=Kind.TPU_BUSY, reason="/dev/vfio/0 is held by pid 7")
    bench.probes = [CLEAN, held]
    end = await bench.run("phase(None, 'init'); sleep()", deadline_s=1.0)
    assert (end.state, end.kind) == ("failed", Kind.TPU_BUSY)
    assert "no progress in init for 1 s; /dev/vfio/0 is held by pid 7" in end.reason
    assert bench.journal.of(Probed) == [CLEAN, held]
    assert bench.journal.of(RunEnded) == []


async def test_stall_after_every_run_has_ended_costs_only_the_runner(bench: Bench) -> None:
    end = await bench.run("ok(0); sleep()", deadline_s=1.0)
    assert end == VisitEnded(state="finished")
    assert len(bench.journal.of(RunnerExited)) == 1


async def test_progress_restarts_the_deadline(bench: Bench) -> None:
    names = "('inputs', 'lower', 'compile', 'check', 'warmup')"
    end = await bench.run(f"[(phase(0, name), time.sleep(0.4)) for name in {names}]; ok(0)", deadline_s=1.5)
    assert end.state == "finished"


async def test_progress_made_while_the_actor_was_stopped_is_no_stall(bench: Bench) -> None:
    names = "('inputs', 'lower', 'compile', 'check', 'warmup', 'measure')"
    supervisor = bench.supervisor(f"[(phase(0, name), time.sleep(0.5)) for name in {names}]; ok(0)", deadline_s=1.5)
    running = asyncio.create_task(bench.finish(supervisor))
    await bench.journal.until(PhaseBegan)
    time.sleep(2.0)
    assert (await running).state == "finished"
    assert [run.outcome for run in bench.journal.of(RunEnded)] == ["ok"]


# -- stops


@pytest.mark.parametrize(
    ("why", "state", "kind"), [(Stop.CANCELLED, "cancelled", Kind.CANCELLED), (Stop.ORPHANED, "failed", Kind.ORPHANED)]
)
async def test_stop_ends_the_runner_and_the_visit(bench: Bench, why: Stop, state: str, kind: Kind | None) -> None:
    supervisor = bench.supervisor("phase(0, 'measure'); sleep()", "ok(1)")
    running = asyncio.create_task(bench.finish(supervisor))
    await bench.journal.until(PhaseBegan)
    alive = supervisor.alive()
    assert (alive.visit, alive.slot, alive.phase, alive.ended_slots) == (3, 0, Phase.MEASURE, 0)
    supervisor.stop(why)
    end = await running
    assert (end.state, end.kind) == (state, kind)
    (run,) = bench.journal.of(RunEnded)
    assert (run.slot, run.outcome, run.kind) == (0, "stopped", None)
    assert len(bench.journal.of(RunnerBegan)) == 1


async def test_stop_before_the_start_starts_nothing(bench: Bench) -> None:
    supervisor = bench.supervisor("ok(0)")
    supervisor.stop(Stop.CANCELLED)
    end = await bench.finish(supervisor)
    assert (end.state, end.kind) == ("cancelled", Kind.CANCELLED)
    assert bench.journal.of(RunnerBegan) == []


async def test_stop_after_the_last_run_leaves_the_visit_finished(bench: Bench) -> None:
    supervisor = bench.supervisor("ok(0); sleep()")
    running = asyncio.create_task(bench.finish(supervisor))
    await bench.journal.until(RunEnded)
    supervisor.stop(Stop.CANCELLED)
    assert (await running).state == "finished"


async def test_full_disk_ends_the_runner_and_the_visit(bench: Bench) -> None:
    supervisor = bench.supervisor("phase(0, 'measure'); time.sleep(0.3); say('samples', slot=0, wall_ns=[1]); sleep()")
    running = asyncio.create_task(bench.finish(supervisor))
    await bench.journal.until(PhaseBegan)
    bench.journal.broken = "the disk is full"
    end = await running
    assert (end.state, end.kind, end.reason) == ("failed", Kind.DISK, "the disk is full")


# -- a runner that nothing ends


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files that hold whoever looks at them in the kernel. Skips, and says so, where this machine has no FUSE."""
    monkeypatch.setattr(supervisor_module, "GONE_S", 1.0)
    try:
        files = StuckFiles(tmp_path / "stuck")
    except OSError as error:
        pytest.skip(f"no FUSE here, so no real state D is seen: {error}")
    yield files
    files.let_go()


async def run_stuck(bench: Bench, stuck: StuckFiles, supervisor: Supervisor, why: Stop | None = None) -> VisitEnded:
    """The visit, while a runner of it is in state D; then that one is let go, and is gone."""
    assert (await bench.look()).clean
    running = asyncio.create_task(supervisor.run())
    await asyncio.to_thread(stuck.wait_for_a_question)
    if why is not None:
        supervisor.stop(why)
    async with asyncio.timeout(60):
        await running
    runner = runner_of(bench.journal)
    assert stat(runner.pid)[0] == "D"
    (fault,) = bench.journal.of(HostFault)
    assert fault.fault == "runner survives SIGKILL"
    assert f"runner {runner.pid} survives SIGKILL (thread {runner.pid} in state D" in fault.detail
    (exited,) = bench.journal.of(RunnerExited)
    assert exited.exit_status == "none: it survives SIGKILL"
    seen = await bench.look()
    assert (seen.clean, seen.kind) == (False, Kind.TPU_BUSY)
    assert fault.detail == seen.reason
    assert bench.workplace.marks.whose(runner.pid) is Whose.STALE
    stuck.let_go()
    await until(lambda: not is_alive(runner))
    assert (await bench.look()).clean
    (end,) = bench.journal.of(VisitEnded)
    return end


async def test_runner_that_survives_sigkill_ends_the_visit_and_gets_no_other_beside_it(
    bench: Bench, stuck: StuckFiles
) -> None:
    bench.workplace = replace(bench.workplace, probe=bench.look)
    supervisor = bench.supervisor(f"phase(0, 'measure'); os.stat({str(stuck.path)!r})", "ok(1)", deadline_s=1.0)
    end = await run_stuck(bench, stuck, supervisor)
    assert (end.state, end.kind) == ("failed", Kind.TPU_BUSY)
    assert "survives SIGKILL" in end.reason
    (run,) = bench.journal.of(RunEnded)
    assert (run.slot, run.kind, run.exit_status) == (0, Kind.STALL, "none: it survives SIGKILL")
    assert len(bench.journal.of(RunnerBegan)) == 1


async def test_runner_that_survives_sigkill_before_any_slot_is_the_hosts(bench: Bench, stuck: StuckFiles) -> None:
    supervisor = bench.supervisor(f"phase(None, 'init'); os.stat({str(stuck.path)!r})", deadline_s=1.0)
    end = await run_stuck(bench, stuck, supervisor)
    assert (end.state, end.kind) == ("failed", Kind.INIT_HANG)
    assert bench.journal.of(RunEnded) == []


async def test_runner_that_survives_sigkill_does_not_hold_up_a_cancel(bench: Bench, stuck: StuckFiles) -> None:
    supervisor = bench.supervisor(f"phase(0, 'measure'); os.stat({str(stuck.path)!r})", "ok(1)")
    end = await run_stuck(bench, stuck, supervisor, Stop.CANCELLED)
    assert (end.state, end.kind) == ("cancelled", Kind.CANCELLED)


async def test_runner_that_survives_sigkill_after_its_last_run_leaves_the_visit_finished(
    bench: Bench, stuck: StuckFiles
) -> None:
    supervisor = bench.supervisor(f"ok(0); os.stat({str(stuck.path)!r})", deadline_s=1.0)
    assert await run_stuck(bench, stuck, supervisor) == VisitEnded(state="finished")


# -- process group, parent and lock


async def test_group_of_a_runner_that_ends_is_gone_with_it(bench: Bench) -> None:
    """A grandchild that ignores TERM and keeps the events descriptor open."""
    family = (
        "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, pass_fds=[options.events])\n"
        "child.stdout.readline(); say('metric', slot=0, name='pid', value=child.pid); ok(0)"
    )
    end = await bench.run(family)
    assert end.state == "finished"
    (pid,) = [int(body.value) for body in bench.journal.bodies if getattr(body, "name", "") == "pid"]
    await until(lambda: (found := identify(pid)) is None or not is_alive(found))


PARENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_supervisor as t
async def main():
    bench = t.Bench(Path({root!r}))
    {prepare}
    supervisor = {supervisor}
    running = asyncio.create_task(supervisor.run())
    await bench.journal.until(t.PhaseBegan, count=3)
    print(*t.runner_of(bench.journal), flush=True)
    await running
asyncio.run(main())
"""


def orphan(root: Path, prepare: str, supervisor: str) -> tuple[subprocess.Popen[str], Identity]:
    """A supervisor in a process of its own, and the runner that it has running."""
    code = PARENT.format(tests=str(Path(__file__).parent), root=str(root), prepare=prepare, supervisor=supervisor)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, start_time = parent.stdout.readline().split()
    return parent, Identity(int(pid), int(start_time))


def is_locked(root: Path) -> bool:
    descriptor = os.open(root / "lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def test_parent_killed_takes_the_real_runner_with_it_within_a_second(tmp_path: Path) -> None:
    prepare = "bench.workplace = t.replace(bench.workplace, codes=t.replace(bench.workplace.codes, command=t.RUNNER))"
    parent, runner = orphan(tmp_path, prepare, "bench.of_jobs(t.SelftestJob(end='hang', phase='inputs'))")
    assert is_alive(runner)
    assert is_locked(tmp_path)
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()
    await until(lambda: not is_alive(runner), within_s=1.0)
    await until(lambda: not is_locked(tmp_path))


async def test_parent_killed_leaves_the_lock_with_a_runner_that_lives(tmp_path: Path) -> None:
    """A scripted runner does not die with its parent: what the lock is for."""
    script = "[phase(0, name) for name in ('inputs', 'lower', 'compile')]; sleep()"
    parent, runner = orphan(tmp_path, "pass", f"bench.supervisor({script!r})")
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()
    assert is_alive(runner)
    assert is_locked(tmp_path)
    os.kill(runner.pid, signal.SIGKILL)
    await until(lambda: not is_locked(tmp_path))
