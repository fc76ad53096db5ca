"""Which exceptions are the job's own fault, by the phase they were raised in."""

import re
from typing import NamedTuple

from core.failures import Kind
from core.visit import Phase
from workers.bench.bench import JobFault

# How XLA's status reads at the start of an error's message, on every backend.
OUT_OF_MEMORY_STATUS = "RESOURCE_EXHAUSTED"
# Which memory, in libtpu 0.0.42: "Ran out of memory on HBM", "Ran out of memory in memory space vmem", "[shape = ...,
# space=vmem, ...". A message names others further on, in the list of what lies where.
_MEMORY = re.compile(r"(?:memory on |memory space |space=)(hbm|vmem|smem)", re.IGNORECASE)
_ON_CHIP = {"vmem", "smem"}


class Fault(NamedTuple):
    kind: Kind
    reason: str


def fault_of(error: Exception, phase: Phase) -> Fault | None:
    """The fault that ends the slot alone, or None when `error` is ours or the host's and must not be hidden."""
    if isinstance(error, JobFault):
        return Fault(error.kind, error.reason)
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        return Fault(Kind.HOST_OOM, said)
    if isinstance(error, OSError):  # a full disk, a file that is gone: no job does that, whatever the phase
        return None
    if OUT_OF_MEMORY_STATUS in str(error):
        return Fault(_full_memory(str(error)), said)
    if phase in (Phase.LOWER, Phase.COMPILE):
        return Fault(Kind.COMPILE_ERROR, said)
    return None


def _full_memory(message: str) -> Kind:
    """What ran out. A message that names no memory is about the devices' own, as on a CPU."""
    named = _MEMORY.search(message)
    return Kind.VMEM_OOM if named and named[1].lower() in _ON_CHIP else Kind.HBM_OOM
