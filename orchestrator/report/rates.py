"""Rates of a time, for readers: derived when asked for, never stored. `core.accounting` has the formulas."""

from collections.abc import Mapping
from typing import Any

# Those of core.accounting's that say how fast, and how much went between devices.
RATES = (
    "tflops",
    "tflops_per_device",
    "mfu",
    "tflops_executed",
    "hfu",
    "tokens_per_s",
    "ici_bytes_per_device",
    "bw_gibps_strict",
)


def rates(
    spec: Mapping[str, Any], seconds: float, devices: int, device_kind: str, counted: Mapping[str, int]
) -> dict[str, Any]:
    """The rates by name, with the formula's `version`; empty for a job whose work has no formula.

    `counted`: the run's `queries.row_counts`.
    """
    # pydantic is worth a tenth of a second of start-up: only readers that show rates pay it
    from core import accounting
    from core.job import MicroJob, MoeBlockJob, parse_job

    job = parse_job(dict(spec))
    if isinstance(job, MoeBlockJob):
        rows = accounting.Rows(counted.get("model_rows"), counted.get("executed_rows"))
        return accounting.rates(job, seconds, devices, device_kind, rows).model_dump()
    if isinstance(job, MicroJob):
        return accounting.routing_rates(job, seconds).model_dump()
    return {}
