"""What a run says while it executes: one discriminated union, the only wire language.

A runner writes these as JSON lines, a host adds its own and gives each a `seq` in its spool, the ledger stores them.
Events are facts about the past: never edited, each applied once. Times between machines are never compared; `at_ns` is
for people.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from core.failures import Kind
from core.model import Frozen
from core.visit import Phase

# What SQLite can store.
Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
StderrTail = Annotated[str, Field(max_length=16_384)]
RunFailure = Annotated[Kind, Field(strict=False)]
InPhase = Annotated[Phase, Field(strict=False)]


class Environment(Frozen):
    """What a process *found*. Equal environments have equal digests and share a row."""

    event: Literal["environment"] = "environment"
    process: Count = Field(description="1 for a visit's first runner; grows with every further one")
    facts: dict[str, str] = Field(
        description="platform, device_kind, device_count, jax, jaxlib, libtpu, python, cpu, code, timer, ..."
    )


class PhaseBegan(Frozen):
    """Progress. `slot` is None for the phases of the process."""

    event: Literal["phase"] = "phase"
    slot: Count | None
    phase: InPhase


class Compiled(Frozen):
    """A slot's program exists. `program` and `inputs` together say whether two runs are the same measurement."""

    event: Literal["compiled"] = "compiled"
    slot: Count
    program: str = Field(description="fingerprint of the lowered program")
    inputs: str = Field(description="digest of the fields that make the arrays")
    lower_ns: Count
    compile_ns: Count
    cached: bool = Field(description="the executable came out of the persistent cache")


class Metric(Frozen):
    """A number about a run. `scope` names the part it is about: an output, a gradient, a stage, or "" for the run."""

    event: Literal["metric"] = "metric"
    slot: Count
    name: str
    value: float
    scope: str = ""
    devices: Count = Field(1, description="devices the number is about")
    formula: str = Field("", description="version of the formula it was derived by, when it was derived")


class Samples(Frozen):
    """The timed iterations of a slot, in order, all kept."""

    event: Literal["samples"] = "samples"
    slot: Count
    first: Count = Field(0, description="index of the first of them")
    wall_ns: tuple[Count, ...] = Field(strict=False)


class RunEnded(Frozen):
    """A slot's run is over. Said once per slot: by the runner, or by its supervisor when the runner cannot."""

    event: Literal["run_ended"] = "run_ended"
    slot: Count
    outcome: Literal["ok", "checked", "failed", "unsupported", "stopped"]
    kind: RunFailure | None = Field(None, description="for failed")
    phase: InPhase | None = None
    reason: str = Field("", max_length=4_096, description="one sentence for a person")
    exit_status: str = Field("", description="'exit 3', 'signal 9 (SIGKILL)': from waitpid, when the process ended")
    stderr_tail: StderrTail = ""


class VisitBegan(Frozen):
    """The host has written the visit's id to disk and is about to start it."""

    event: Literal["visit_began"] = "visit_began"
    sitting: str = Field(description="random id of the actor's stay on the host")


class RunnerBegan(Frozen):
    event: Literal["runner_began"] = "runner_began"
    process: Count
    pid: Count
    start_time: Count = Field(description="field 22 of /proc/PID/stat: with the pid, the process' identity on its host")
    slots: tuple[Count, ...] = Field(strict=False)


class RunnerExited(Frozen):
    event: Literal["runner_exited"] = "runner_exited"
    process: Count
    exit_status: str
    stderr_tail: StderrTail = ""


class VisitEnded(Frozen):
    """The last word on a visit. Slots without a `run_ended` before it were not run."""

    event: Literal["visit_ended"] = "visit_ended"
    state: Literal["finished", "failed", "cancelled"]
    kind: RunFailure | None = Field(None, description="for failed and cancelled")
    reason: str = Field("", max_length=4_096)


class Probed(Frozen):
    """A read-only look at a host's accelerator. `kind`: how a visit would fail there now; None on a clean host."""

    event: Literal["probed"] = "probed"
    clean: bool
    kind: RunFailure | None = None
    reason: str = ""
    in_use: bool = Field(False, description="who has the accelerator is not ours to end, so nor is the machine")
    free_disk_bytes: Count = 0


class Rung(Frozen):
    """One step of the ladder that frees a busy accelerator: what was done, to whom, and what came of it."""

    event: Literal["rung"] = "rung"
    step: Literal["holders", "term", "kill", "released", "lockfile", "trial"]
    good: bool = Field(description="the step left nothing in the way")
    detail: str = Field("", max_length=4_096)


class HostFault(Frozen):
    """Something went wrong that belongs to no visit: a torn spool line, a gap in the sequence, a refused call."""

    event: Literal["fault"] = "fault"
    fault: str
    detail: str = ""


class Decided(Frozen):
    """What the controller did, and why: lost, taken back, superseded, make-up, closed, paused, resumed …"""

    event: Literal["decided"] = "decided"
    what: str
    why: str = ""


RunnerEvent = Annotated[Environment | PhaseBegan | Compiled | Metric | Samples | RunEnded, Field(discriminator="event")]
Body = Annotated[
    Environment
    | PhaseBegan
    | Compiled
    | Metric
    | Samples
    | RunEnded
    | VisitBegan
    | RunnerBegan
    | RunnerExited
    | VisitEnded
    | Probed
    | Rung
    | HostFault
    | Decided,
    Field(discriminator="event"),
]
RUNNER_EVENT: TypeAdapter[Environment | PhaseBegan | Compiled | Metric | Samples | RunEnded] = TypeAdapter(RunnerEvent)


class Entry(Frozen):
    """A spool's line: an event with its place in the sequence."""

    seq: Annotated[Count, Field(ge=1)]
    at_ns: Integer = Field(description="wall clock of the machine that wrote it, for people only")
    visit: Count | None
    body: Body
