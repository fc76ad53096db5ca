"""Series made by hand: the rows a reader would get, with the times one wants."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from core.ledger.rows import Block, Cell, Experiment, Record, Run, Series, Slot, Visit

CPU = {"platform": "cpu", "device_kind": "cpu", "jax": "0.10.2", "code": "c0de"}


class Arm(NamedTuple):
    """A cell whose job is compared with the job `reference`, or is a reference itself."""

    job: str
    reference: str
    coordinates: Mapping[str, str]
    spec: Mapping[str, Any] = {}


class Timed(NamedTuple):
    """One block: job -> its iterations in ns, or the kind it failed with, in the order of its slots."""

    times: Mapping[str, Sequence[int] | str]
    host: str = "h1"
    sitting: str = "s1"
    accepted: bool = True
    closed: str | None = None


class Details(NamedTuple):
    """What differs from an ordinary series. By job: the facts found, the program, the inputs, the devices used."""

    measure: Mapping[str, Any] = {}
    baseline: Mapping[str, Any] = {"backend": "ragged_dot"}
    text: str = ""
    facts: Mapping[str, Mapping[str, str]] = {}
    program: Mapping[str, str] = {}
    inputs: Mapping[str, str] = {}
    devices: Mapping[str, int] = {}
    retired: Mapping[str, str] = {}
    forgiven: Mapping[str, int] = {}


def make_series(arms: Sequence[Arm], blocks: Sequence[Timed], details: Details = Details()) -> Record:  # noqa: B008
    by_job = {arm.job: arm for arm in arms}
    rows, visits, runs, environments = [], {}, [], {}
    for number, block in enumerate(blocks, start=1):
        jobs = list(block.times)
        slots = tuple(
            Slot(j, "arm", jobs.index(by_job[j].reference) if by_job[j].reference in jobs else jobs.index(j))
            for j in jobs
        )
        taken = number if block.accepted and block.closed is None else None
        rows.append(Block(number, "g", number - 1, slots, "first", 0, None, taken, block.closed))
        visits[number] = Visit(number, number, block.host, block.sitting, "finished", None, "", number)
        for slot, (job, times) in enumerate(block.times.items()):
            failed = isinstance(times, str)
            facts = details.facts.get(job, CPU)
            environments[repr(facts)] = facts
            runs.append(
                Run(
                    id=len(runs) + 1,
                    visit=number,
                    slot=slot,
                    job=job,
                    role="arm",
                    environment=repr(facts),
                    program=details.program.get(job, f"program of {job}"),
                    inputs=details.inputs.get(job, "inputs"),
                    outcome="failed" if failed else "ok",
                    kind=times if failed else None,
                    phase=None,
                    reason="it broke" if failed else "",
                    devices=details.devices.get(job, 1),
                    wall_ns=() if failed else tuple(times),
                )
            )
    cells = tuple(
        Cell(i, arm.coordinates, "g", arm.job, arm.reference, None, details.retired.get(arm.job))
        for i, arm in enumerate(arms)
    )
    measure = {"blocks": len(blocks), "iters": 5, "noise_band": None, **details.measure}
    series = Series(1, "exp", 1, details.text, {}, measure, tuple(details.baseline), details.baseline, "c0de", 1, {})
    return Record(
        Experiment("exp", "why", 0, "me", 1, None),
        series,
        cells,
        tuple(rows),
        visits,
        tuple(runs),
        {arm.job: {"kind": "moe_block", "env": {}, **arm.spec} for arm in arms},
        environments,
        details.forgiven,
    )


@pytest.fixture
def lab() -> SimpleNamespace:
    """The words to describe a series with, and `series` to make it."""
    return SimpleNamespace(
        Arm=Arm, Timed=Timed, Details=Details, series=make_series, two_arms=two_arms, timed=timed, CPU=CPU
    )


def two_arms(pairs: Sequence[tuple[float, float]], details: Details = Details(), **block: Any) -> Record:  # noqa: B008
    """A reference and an arm: their times (reference, arm) in ms, block by block, all alike otherwise."""
    arms = [Arm("ref", "ref", {"backend": "ragged_dot"}), Arm("arm", "ref", {"backend": "blocked"})]
    return make_series(arms, [timed(pair, **block) for pair in pairs], details)


def timed(pair: tuple[float, float], **block: Any) -> Timed:
    return Timed({job: [int(ms * 1e6)] * 5 for job, ms in zip(("ref", "arm"), pair, strict=True)}, **block)
