"""The two passes of a process over its slots: prepare them all, then time them in order.

Every compile lies in the first pass, so that none lies between two timed slots. A slot that fails on the job's own
account ends there and the process goes on. An exception nobody foresaw is left to end the process: its exit status and
its traceback are what the supervisor classifies by.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from core.events import Compiled, Metric, PhaseBegan, RunEnded, Samples
from core.failures import Kind
from core.visit import Phase, Slot, Visit
from workers.bench.bench import Bench, JobFault, Measure, Unsupported
from workers.bench.faults import fault_of
from workers.bench.wire import Wire

# RunEnded.reason is one sentence for a person; a compiler's words can be pages long, and stderr has them whole.
REASON_CHARS = 4_000


class MemoryNotReturned(Exception):
    """A slot left arrays behind: the slots after it need a fresh process."""


@dataclass(frozen=True)
class Step:
    """A slot with its bench, and where it says what happens to it."""

    slot: Slot
    bench: Bench
    wire: Wire

    def begin(self, phase: Phase) -> None:
        self.wire.send(PhaseBegan(slot=self.slot.slot, phase=phase))

    def metric(self, measure: Measure) -> None:
        self.wire.send(
            Metric(
                slot=self.slot.slot,
                name=measure.name,
                value=measure.value,
                scope=measure.scope,
                devices=self.bench.devices,
            )
        )

    def fail(self, kind: Kind, phase: Phase, reason: str) -> None:
        reason = reason[:REASON_CHARS]
        self.wire.send(RunEnded(slot=self.slot.slot, outcome="failed", kind=kind, phase=phase, reason=reason))


class _Stopped(Exception):
    """The slot has ended; nothing more is done for it."""


@contextmanager
def _in_phase(step: Step, phase: Phase) -> Iterator[None]:
    """Announce a phase, and end the slot when the job is at fault in it."""
    step.begin(phase)
    try:
        yield
    except Unsupported as error:
        reason = str(error)[:REASON_CHARS]
        step.wire.send(RunEnded(slot=step.slot.slot, outcome="unsupported", phase=phase, reason=reason))
        step.bench.drop()
        raise _Stopped from error
    except Exception as error:
        fault = fault_of(error, phase)
        if fault is None:
            raise
        step.fail(fault.kind, phase, fault.reason)
        step.bench.drop()
        raise _Stopped from error


def run(visit: Visit, steps: Sequence[Step], bytes_in_use: Callable[[], int] | None) -> None:
    """Prepare and time every slot; `bytes_in_use` is None for a process without a device.

    Raises MemoryNotReturned before a slot that would not start where the first one did.
    """
    ready = [step for step in steps if _prepare(step)]
    first: int | None = None
    for step in ready:
        gc.collect()
        if bytes_in_use is not None:
            held = bytes_in_use()
            first = held if first is None else first
            if held > first:
                raise MemoryNotReturned(f"{held - first} bytes more in use before slot {step.slot.slot} than at first")
            step.metric(Measure("bytes_in_use", float(held)))
        _time(step, visit)


def _prepare(step: Step) -> bool:
    """Take a slot as far as a checked executable. False when it ended on the way."""
    bench, job = step.bench, step.slot.job
    try:
        with _in_phase(step, Phase.INPUTS):
            if refusal := job.refusal():
                raise JobFault(Kind.USER_ERROR, refusal)
            inputs = bench.inputs()
        with _in_phase(step, Phase.LOWER):
            began = time.perf_counter_ns()
            program = bench.lower()
            lower_ns = time.perf_counter_ns() - began
        with _in_phase(step, Phase.COMPILE):
            began = time.perf_counter_ns()
            cached = bench.compile()
            compile_ns = time.perf_counter_ns() - began
        step.wire.send(
            Compiled(
                slot=step.slot.slot,
                program=program,
                inputs=inputs,
                lower_ns=lower_ns,
                compile_ns=compile_ns,
                cached=cached,
            )
        )
        with _in_phase(step, Phase.CHECK):
            checked = bench.check()
            for measure in checked.measures:
                step.metric(measure)
            if checked.refusal:
                raise JobFault(Kind.NUMERICS, checked.refusal)
    except _Stopped:
        return False
    bench.drop()
    if not bench.timed:
        step.wire.send(RunEnded(slot=step.slot.slot, outcome="checked"))
    return bench.timed


def _time(step: Step, visit: Visit) -> None:
    bench = step.bench
    try:
        with _in_phase(step, Phase.INPUTS):
            bench.place()
        with _in_phase(step, Phase.WARMUP):
            bench.warmup(visit.warmup)
        with _in_phase(step, Phase.MEASURE):
            measured = bench.measure(visit.iters)
    except _Stopped:
        return
    bench.drop()
    for measure in measured.measures:
        step.metric(measure)
    step.wire.send(Samples(slot=step.slot.slot, wall_ns=measured.wall_ns))
    step.wire.send(RunEnded(slot=step.slot.slot, outcome="ok"))
