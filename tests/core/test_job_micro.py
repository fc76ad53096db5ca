"""Micro-benchmarks as jobs: the fields of each kind, what has no meaning, what cannot matter."""

from typing import Any

import pytest
from pydantic import ValidationError

from core.job import KINDS, CapacityJob, parse_job

BATCH = {"tokens": 64, "experts": 8, "topk": 2}
MOVED = {**BATCH, "hidden": 16}
JOBS: dict[str, dict[str, Any]] = {
    "topk": BATCH,
    "routing": MOVED,
    "pack": MOVED,
    "pack_only": MOVED,
    "combine_only": MOVED,
    "moe_layer": MOVED,
    "capacity": {**MOVED, "capacity_factor": 1.25},
}
ROUTER = {"strategy", "temperature", "soft_normalize", "topk_impl"}
FIELDS = {
    "topk": {*BATCH, *ROUTER},
    "routing": {*MOVED, *ROUTER},
    "pack": {*MOVED},
    "pack_only": {*MOVED},
    "combine_only": {*MOVED},
    "moe_layer": {*MOVED, "expand", "backend"},
    "capacity": {*MOVED, *ROUTER, "capacity_factor", "renorm_after_drop"},
}


def job(kind: str, **change: Any) -> Any:
    return parse_job({"kind": kind, **JOBS[kind], **change})


@pytest.mark.parametrize("kind", JOBS)
def test_micro_job_has_the_fields_it_uses_and_no_others(kind: str) -> None:
    assert set(KINDS[kind].model_fields) == FIELDS[kind] | {"kind", "env", "code", "dtype", "seed"}


@pytest.mark.parametrize("kind", JOBS)
def test_micro_job_of_defaults_has_a_meaning_seed_17_and_one_identity(kind: str) -> None:
    plain = job(kind)
    assert plain.refusal() is None
    assert plain.seed == 17
    assert plain.canonical() == {"kind": kind, **JOBS[kind]}
    assert parse_job(plain.model_dump()).id == plain.id
    assert len({job(kind, dtype=dtype).id for dtype in ("bfloat16", "float16", "float32")}) == 3


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        *((kind, {"topk": 9}, "topk = 9 is more than experts = 8") for kind in JOBS),
        ("pack", {"tokens": 2**30}, "2147483648 assignments cannot be indexed"),
        ("topk", {"strategy": "top1"}, "strategy = top1 chooses one expert, topk = 2; set topk = 1"),
        ("capacity", {"strategy": "top1"}, "set topk = 1 or strategy = topk_hard"),
        ("capacity", {"capacity_factor": 2.0**30}, "experts x capacity"),
        ("moe_layer", {"expand": 2**30}, "expand x hidden = 17179869184"),
    ],
)
def test_refusal_of_a_micro_job_without_meaning_says_why(kind: str, change: dict[str, Any], words: str) -> None:
    refusal = job(kind, **change).refusal()
    assert refusal is not None
    assert words in refusal


@pytest.mark.parametrize(
    ("kind", "fields", "change", "matters"),
    [
        ("topk", {"strategy": "topk_hard"}, {"temperature": 2.0}, False),
        ("topk", {"strategy": "topk_hard"}, {"soft_normalize": False}, False),
        ("topk", {"strategy": "softk"}, {"temperature": 2.0}, True),
        ("topk", {"strategy": "softk"}, {"soft_normalize": False}, True),
        ("capacity", {}, {"renorm_after_drop": True}, True),
        ("capacity", {"capacity_factor": 4.0}, {"renorm_after_drop": True}, False),
        ("capacity", {"capacity_factor": 3.9}, {"renorm_after_drop": True}, True),
        ("capacity", {"strategy": "top1", "topk": 1}, {"renorm_after_drop": True}, False),
    ],
)
def test_id_of_a_micro_job_changes_only_with_what_matters(
    kind: str, fields: dict[str, Any], change: dict[str, Any], matters: bool
) -> None:
    assert (job(kind, **fields).id != job(kind, **fields, **change).id) is matters
    assert (next(iter(change)) not in job(kind, **fields).irrelevant()) is matters


@pytest.mark.parametrize(
    ("factor", "fields", "rows"),
    [(1.0, {}, 16), (1.25, {}, 20), (1.1, {"tokens": 40}, 11), (1.0, {"tokens": 63}, 16), (0.001, {}, 1)],
)
def test_capacity_is_the_factor_of_a_mean_load_rounded_up(factor: float, fields: dict[str, Any], rows: int) -> None:
    limited = job("capacity", capacity_factor=factor, **fields)
    assert isinstance(limited, CapacityJob)
    assert limited.capacity == rows


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("topk", {"hidden": 16}),
        ("pack", {"strategy": "softk"}),
        ("pack_only", {"capacity_factor": 1.0}),
        ("routing", {"topk_impl": "quack"}),
        ("routing", {"temperature": 0.0}),
        ("moe_layer", {"backend": "torch"}),
        ("capacity", {"capacity_factor": 0.0}),
        ("combine_only", {"dtype": "int8"}),
    ],
)
def test_micro_job_of_a_wrong_field_or_value_is_none(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job(kind, **change)


def test_capacity_job_without_a_factor_is_none() -> None:
    with pytest.raises(ValidationError, match="capacity_factor"):
        parse_job({"kind": "capacity", **MOVED})
