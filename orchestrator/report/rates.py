"""Rates of a time, for readers: derived when asked for, never stored. `core.accounting` has the formulas."""

from collections.abc import Mapping
from typing import Any

# Those of core.accounting.Rates that follow from a time.
RATES = ("tflops", "tflops_per_device", "mfu", "tflops_executed", "hfu", "tokens_per_s", "bw_gibps_strict")


def rates(spec: Mapping[str, Any], seconds: float, devices: int, device_kind: str) -> dict[str, Any]:
    """The rates by name, with the formula's `version`; empty for a job whose work has no formula."""
    # pydantic is worth a tenth of a second of start-up: only readers that show rates pay it
    from core import accounting
    from core.job import MoeBlockJob, parse_job

    job = parse_job(dict(spec))
    if not isinstance(job, MoeBlockJob):
        return {}
    return accounting.rates(job, seconds, devices, device_kind).model_dump()
