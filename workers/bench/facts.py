"""What a process finds before it measures: versions and the machine. What a JAX process adds stands in `devices`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core.job import Job, MicroJob


def cpu_model() -> str:
    """The processor's name as Linux gives it, or what Python knows elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(distribution: str) -> str:
    """The installed version, or "" when it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def timer_of(job: Job) -> str:
    """The clock of `timing` that a job is measured by: a micro-benchmark is shorter than its own dispatch."""
    return "wall_chain" if isinstance(job, MicroJob) else "wall_sync"


def process_facts(code: str, timer: str) -> dict[str, str]:
    """Facts of a process, JAX not needed. `code` is the code hash the host vouched for, `timer` that of its jobs."""
    return {
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "nice": str(os.getpriority(os.PRIO_PROCESS, 0)),
        "code": code,
        "timer": timer,
    }
