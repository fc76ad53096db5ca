"""The order of the two passes, and what becomes of slots that fail, with benches that record what they are asked."""

import errno
import os
from dataclasses import dataclass, field

import pytest

from core.events import RUNNER_EVENT, Compiled, Metric, PhaseBegan, RunEnded, Samples
from core.failures import Kind
from core.job import MoeBlockJob, SelftestJob
from core.visit import Slot, Visit
from workers.bench import passes
from workers.bench.bench import Checked, JobFault, Measure, Measured, Unsupported
from workers.bench.wire import Wire


@dataclass
class RecordingBench:
    """Does nothing, says what it was asked, and raises `fault` in the step named `at`."""

    name: int
    asked: list[str]
    at: str = ""
    fault: Exception | None = None
    checked: Checked = field(default=Checked((Measure("rel_error", 0.5, "y"),)))
    timed: bool = True
    devices: int = 4

    def _step(self, step: str) -> None:
        self.asked.append(f"{step} {self.name}")
        if step == self.at and self.fault:
            raise self.fault

    def inputs(self) -> str:
        self._step("inputs")
        return "arrays"

    def lower(self) -> str:
        self._step("lower")
        return "program"

    def compile(self) -> bool:
        self._step("compile")
        return True

    def check(self) -> Checked:
        self._step("check")
        return self.checked

    def drop(self) -> None:
        self._step("drop")

    def place(self) -> None:
        self._step("place")

    def warmup(self, calls: int) -> None:
        self._step(f"warmup x{calls}")

    def measure(self, calls: int) -> Measured:
        self._step("measure")
        return Measured(tuple(range(calls)), (Measure("stage_ns", 7.0, "pack"),))


JOB = MoeBlockJob(tokens=4, hidden=4, mlp_dim=4, experts=2, topk=1, backend="blocked")


def run(*benches: RecordingBench, held=None, job=JOB):
    """The events of a visit over these benches; `held` is the bytes in use before each timed slot."""
    visit = Visit(visit=1, iters=3, warmup=2, slots=tuple(Slot(slot=bench.name, job=job) for bench in benches))
    reader, writer = os.pipe()
    steps = [passes.Step(slot, bench, Wire(writer)) for slot, bench in zip(visit.slots, benches, strict=True)]
    raised = None
    try:
        passes.run(visit, steps, None if held is None else iter(held).__next__)
    except (ValueError, OSError, passes.MemoryNotReturned) as error:
        raised = error
    finally:
        os.close(writer)
    with os.fdopen(reader) as lines:
        return [RUNNER_EVENT.validate_json(line) for line in lines], raised


def ended(events) -> dict[int, RunEnded]:
    return {event.slot: event for event in events if isinstance(event, RunEnded)}


def test_run_two_slots_prepares_all_before_it_times_any():
    asked: list[str] = []
    events, raised = run(RecordingBench(0, asked), RecordingBench(1, asked), held=[10, 10])
    prepare = ["inputs", "lower", "compile", "check", "drop"]
    time = ["place", "warmup x2", "measure", "drop"]
    assert raised is None
    assert asked == [f"{step} {slot}" for steps in (prepare, time) for slot in (0, 1) for step in steps]
    assert [type(event) for event in events if not isinstance(event, PhaseBegan) and event.slot == 1] == [
        Compiled,
        Metric,
        Metric,
        Metric,
        Samples,
        RunEnded,
    ]
    assert {event.devices for event in events if isinstance(event, Metric)} == {4}
    phases = [event.phase.value for event in events if isinstance(event, PhaseBegan) and event.slot == 1]
    assert phases == ["inputs", "lower", "compile", "check", "inputs", "warmup", "measure"]
    assert next(event for event in events if isinstance(event, Samples)).wall_ns == (0, 1, 2)
    assert [event.value for event in events if isinstance(event, Metric) and event.name == "bytes_in_use"] == [10, 10]


FULL = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "


@pytest.mark.parametrize(
    ("at", "fault", "kind"),
    [
        ("inputs", MemoryError("no room"), Kind.HOST_OOM),
        ("lower", TypeError("shapes do not fit"), Kind.COMPILE_ERROR),
        ("lower", JobFault(Kind.COMPILE_ERROR, "a constant"), Kind.COMPILE_ERROR),
        ("compile", RuntimeError("Mosaic says no"), Kind.COMPILE_ERROR),
        ("compile", RuntimeError("RESOURCE_EXHAUSTED: 99G"), Kind.HBM_OOM),
        ("compile", RuntimeError(f"{FULL}memory space vmem. Used 113M\n 1. in memory space hbm"), Kind.VMEM_OOM),
        ("compile", RuntimeError(f"{FULL}memory space hbm. Used 596G\n 1. [space=vmem]"), Kind.HBM_OOM),
        ("compile", RuntimeError("RESOURCE_EXHAUSTED: 1 would exceed 0 [f32[8], space=smem]"), Kind.VMEM_OOM),
        ("check", RuntimeError("RESOURCE_EXHAUSTED: 99G"), Kind.HBM_OOM),
        ("measure", RuntimeError("RESOURCE_EXHAUSTED: 99G"), Kind.HBM_OOM),
    ],
)
def test_run_slot_that_fails_alone_ends_and_the_next_is_timed(at, fault, kind):
    asked: list[str] = []
    events, raised = run(RecordingBench(0, asked, at, fault), RecordingBench(1, asked), held=[1, 1])
    assert raised is None
    first, second = ended(events)[0], ended(events)[1]
    assert (first.outcome, first.kind, first.phase.value) == ("failed", kind, at)
    assert str(fault) in first.reason
    assert second.outcome == "ok"
    assert asked[asked.index(f"{at} 0") + 1] == "drop 0"


@pytest.mark.parametrize("at", ["inputs", "lower", "compile", "check", "place", "measure"])
def test_run_full_disk_is_never_the_jobs_fault(at):
    fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    events, raised = run(RecordingBench(0, [], at, fault), held=[1])
    assert raised is fault
    assert ended(events) == {}


@pytest.mark.parametrize("at", ["inputs", "check", "place", "measure"])
def test_run_exception_nobody_foresaw_is_not_hidden(at):
    fault = ValueError("our own bug")
    events, raised = run(RecordingBench(0, [], at, fault), held=[1])
    assert raised is fault
    assert ended(events) == {}


def test_run_check_that_refuses_ends_the_slot_untimed_with_its_metrics():
    asked: list[str] = []
    refused = Checked((Measure("rel_error", 9.0, "y"),), "y is off")
    events, _ = run(RecordingBench(0, asked, checked=refused), RecordingBench(1, asked), held=[1])
    assert (ended(events)[0].kind, ended(events)[0].reason) == (Kind.NUMERICS, "y is off")
    assert any(isinstance(event, Metric) and event.slot == 0 and event.value == 9.0 for event in events)
    assert "measure 0" not in asked
    assert ended(events)[1].outcome == "ok"


def test_run_memory_that_does_not_return_leaves_the_remaining_slots_unrun():
    asked: list[str] = []
    events, raised = run(*(RecordingBench(slot, asked) for slot in range(3)), held=[100, 101])
    assert isinstance(raised, passes.MemoryNotReturned)
    assert {slot: end.outcome for slot, end in ended(events).items()} == {0: "ok"}
    assert "place 1" not in asked


def test_run_job_without_a_meaning_is_the_users_error():
    job = JOB.model_copy(update={"topk": 3})
    events, _ = run(RecordingBench(0, []), job=job)
    assert (ended(events)[0].kind, ended(events)[0].phase.value) == (Kind.USER_ERROR, "inputs")
    assert "topk = 3 is more than experts = 2" in ended(events)[0].reason


def test_run_long_reason_fits_the_event():
    events, _ = run(RecordingBench(0, [], "compile", RuntimeError("x" * 100_000)))
    assert len(ended(events)[0].reason) <= 4096


def test_run_without_a_device_reports_no_bytes():
    events, _ = run(RecordingBench(0, []), job=SelftestJob())
    assert not any(isinstance(event, Metric) and event.name == "bytes_in_use" for event in events)


def test_run_slot_that_is_only_interpreted_ends_checked_and_is_not_timed():
    asked: list[str] = []
    events, _ = run(RecordingBench(0, asked, timed=False), RecordingBench(1, asked), held=[10])
    assert "measure 0" not in asked
    assert "measure 1" in asked
    assert (ended(events)[0].outcome, ended(events)[1].outcome) == ("checked", "ok")
    assert [event.value for event in events if isinstance(event, Metric) and event.slot == 0] == [0.5]


def test_run_slot_that_the_devices_cannot_run_ends_unsupported_with_its_reason():
    asked: list[str] = []
    fault = Unsupported("experts = 6 cannot be split over 4 devices")
    events, _ = run(RecordingBench(0, asked, at="inputs", fault=fault), RecordingBench(1, asked), held=[10])
    assert (ended(events)[0].outcome, ended(events)[0].reason) == ("unsupported", str(fault))
    assert asked[:2] == ["inputs 0", "drop 0"]
    assert ended(events)[1].outcome == "ok"
