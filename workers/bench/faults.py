"""Which exceptions are the job's own fault, by the phase they were raised in."""

from typing import NamedTuple

from core.failures import Kind
from core.visit import Phase
from workers.bench.bench import JobFault

# How XLA's status reads at the start of an error's message, on every backend.
OUT_OF_MEMORY_STATUS = "RESOURCE_EXHAUSTED"


class Fault(NamedTuple):
    kind: Kind
    reason: str


def fault_of(error: Exception, phase: Phase) -> Fault | None:
    """The fault of the job that `error` is, or None when it is ours or the host's and must not be hidden."""
    if isinstance(error, JobFault):
        return Fault(error.kind, error.reason)
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or OUT_OF_MEMORY_STATUS in str(error):
        return Fault(Kind.HBM_OOM, said)
    if phase in (Phase.LOWER, Phase.COMPILE):
        return Fault(Kind.COMPILE_ERROR, said)
    return None
