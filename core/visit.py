"""A visit: one attempt at one block on one host, complete enough to be executed without asking back.

It is what a controller desires of a host, what a host hands to its runner, and what a person can write to a file for
`python -m workers.runner`. A visit's id only grows and is the fencing token.
"""

import json
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from core.job import JobSpec
from core.model import Frozen


class Role(StrEnum):
    """Why a slot is there."""

    ARM = "arm"
    REPEAT = "repeat"
    SENTINEL = "sentinel"


class Phase(StrEnum):
    """What a runner is doing. START and INIT belong to the process, the others to one slot each."""

    START = "start"
    INIT = "init"
    INPUTS = "inputs"
    LOWER = "lower"
    COMPILE = "compile"
    CHECK = "check"
    WARMUP = "warmup"
    MEASURE = "measure"


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Deadlines(Frozen):
    """Seconds a phase may last, per arm, before the runner counts as stalled. Generous: the slowest compile of the
    logbooks took 62 s, and a stall costs an evening only when nobody ends it."""

    start: Seconds = 60.0
    init: Seconds = 180.0
    inputs: Seconds = 600.0
    lower: Seconds = 300.0
    compile: Seconds = 1200.0
    check: Seconds = 1200.0
    warmup: Seconds = 900.0
    measure: Seconds = 3600.0

    def of(self, phase: Phase) -> float:
        return float(getattr(self, phase.value))


class Slot(Frozen):
    """A place in a visit's order."""

    slot: Annotated[int, Field(ge=0)] = Field(description="index in the block; 0 is the block's reference")
    job: JobSpec
    role: Role = Field(Role.ARM, strict=False)


class Platform(StrEnum):
    CPU = "cpu"
    TPU = "tpu"
    CUDA = "cuda"


class Target(Frozen):
    """The accelerator a visit must find: asserted by the runner, so that a benchmark never quietly runs elsewhere."""

    platform: Platform = Field(Platform.CPU, strict=False)
    devices: Annotated[int, Field(ge=1)] = Field(4, description="on a CPU: emulated devices")
    kind: str = Field("", description="as JAX names it, such as 'TPU v5'; empty: any kind will do")


class BundleRef(Frozen):
    """A code bundle: `id` names it on the host, `code` is the code hash of what is in it."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    code: str


class Visit(Frozen):
    """`slots` are in the order of execution; those of equal `env` and `code` share a process."""

    visit: Annotated[int, Field(ge=1)]
    slots: tuple[Slot, ...] = Field(min_length=1, strict=False)
    iters: Annotated[int, Field(ge=1)]
    warmup: Annotated[int, Field(ge=0)]
    target: Target = Target()
    deadlines: Deadlines = Deadlines()
    code: str = Field("", description="code hash the controller expects; a host with other code refuses the visit")
    bundles: dict[str, BundleRef] = Field(
        default_factory=dict, description="by a job's `code`: what its slots run; without one for '': the host's own"
    )


def written_for_runner(visit: Visit) -> str:
    """A visit as JSON for a runner, whose code it runs with already. It may be that of an older revision, which refuses
    keys it does not know: there are none that it can do without."""
    document = visit.model_copy(update={"bundles": {}}).model_dump(mode="json", exclude_defaults=True)
    for written, slot in zip(document["slots"], visit.slots, strict=True):
        written["job"] = slot.job.model_copy(update={"code": ""}).canonical()
    return json.dumps(document)
