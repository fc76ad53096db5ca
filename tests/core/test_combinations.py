"""Combinations of a block's fields: which are refused and why, and which fields cannot matter in them."""

from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import MoeBlockJob, parse_job

BLOCK: dict[str, Any] = {
    "kind": "moe_block",
    "tokens": 1024,
    "hidden": 128,
    "mlp_dim": 256,
    "experts": 8,
    "topk": 2,
    "backend": "blocked",
}

TILES = st.dictionaries(
    st.sampled_from(["forward", "dlhs", "drhs"]), st.sampled_from([[128, 128, 128], [512, 256, 128]]), max_size=3
)
# What the model's types alone do not say how to draw.
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "tokens": st.sampled_from([1, 64, 1024, 2**30]),
    "hidden": st.just(128),
    "mlp_dim": st.just(256),
    "experts": st.sampled_from([1, 4, 128]),
    "topk": st.sampled_from([1, 2, 8]),
    "shared_expert_dim": st.sampled_from([0, 64]),
    "seed": st.integers(0, 2),
    "run_alpha": st.sampled_from([0.0, 0.5, 0.98]),
    "run_noise_scale": st.sampled_from([0.0, 0.35, 1.0]),
    "null_route_frac": st.sampled_from([0.0, 0.3, 1.0]),
    "capacity_factor": st.sampled_from([0.0, 0.5, 1.25]),
    "tiles": TILES,
    "code": st.sampled_from(["", "0" * 40]),
    "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["", "1"]), max_size=2),
}


def _values(name: str) -> st.SearchStrategy[Any]:
    annotation = MoeBlockJob.model_fields[name].annotation
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    return st.booleans() if annotation is bool else DRAWN[name]


VALUES = {name: _values(name) for name in MoeBlockJob.model_fields}
REQUIRED = [name for name, field in MoeBlockJob.model_fields.items() if field.is_required()]
JOBS = st.fixed_dictionaries(
    {name: VALUES[name] for name in REQUIRED},
    optional={name: values for name, values in VALUES.items() if name not in REQUIRED},
).map(lambda fields: parse_job({"kind": "moe_block"} | fields))


TILE = st.sampled_from([None, [128, 128, 128], [64, 64, 64]])
# The values between which nothing changes, where those are not all the values of the field: of int8 modes, only the
# shared expert's is none without a shared expert.
ALIKE = VALUES | {
    "quant_mode": st.sampled_from(["none", "int8"]),
    "tiles.forward": TILE,
    "tiles.dlhs": TILE,
    "tiles.drhs": TILE,
}


def _with(job: MoeBlockJob, name: str, value: Any) -> MoeBlockJob:
    """The job with another value of a field, or of one of its tiles (None: of the default size)."""
    table, dot, entry = name.partition(".")
    if not dot:
        return parse_job(job.model_dump() | {name: value})
    tiles = {key: tile for key, tile in job.tiles.items() if key != entry} | ({entry: value} if value else {})
    return parse_job(job.model_dump() | {table: tiles})


@settings(max_examples=200, deadline=None)
@given(JOBS)
def test_canonical_job_of_any_fields_is_its_own_and_is_refused_alike(job: MoeBlockJob) -> None:
    canonical = job.canonicalised()
    assert canonical.canonicalised() == canonical
    assert canonical.id == job.id == parse_job(job.model_dump()).id
    assert canonical.refusal() == job.refusal()
    assert canonical.canonical().keys().isdisjoint(job.irrelevant())


@settings(max_examples=200, deadline=None)
@given(JOBS, st.data())
def test_field_that_cannot_matter_changes_neither_the_id_nor_the_refusal(job: MoeBlockJob, data: st.DataObject) -> None:
    if irrelevant := job.irrelevant():
        name = data.draw(st.sampled_from(sorted(irrelevant)))
        other = _with(job, name, data.draw(ALIKE[name]))
        assert (other.id, other.refusal()) == (job.id, job.refusal())


@settings(max_examples=200, deadline=None)
@given(JOBS, st.data())
def test_field_that_can_matter_makes_another_job(job: MoeBlockJob, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in VALUES if name not in ("kind", "tiles", "env")]))
    value = data.draw(VALUES[name])
    other = _with(job, name, value)
    if other.id == job.id:
        assert value == getattr(job, name) or {name} <= job.irrelevant().keys() | other.irrelevant().keys()


@pytest.mark.parametrize(
    ("fields", "irrelevant"),
    [
        ({}, {"capacity_factor": "capacity_policy = none", "shared_fused": "shared_expert_dim = 0"}),
        ({}, {"run_alpha": "distribution = random", "run_noise_scale": "distribution = random"}),
        ({}, {"devices": "parallel_mode = none", "buffer_rows": "null_route_frac = 0: all rows are real"}),
        ({}, {"permute_vjp": "bench_pass = forward", "remat_mode": "bench_pass = forward"}),
        ({"impl": "scatter"}, {"w13_param": "impl = scatter"}),
        ({"impl": "fast"}, {"w13_param": None}),
        ({"routing": "softmax_topk"}, {"renormalize_topk": None}),
        (
            {"routing": "softmax_topk", "null_route_frac": 0.5},
            {"renormalize_topk": "renormalize_real_after_null = true, after which weights sum to 1"},
        ),
        ({"null_route_frac": 0.5}, {"null_routing_mode": None, "renormalize_real_after_null": None}),
        (
            {"null_route_frac": 0.5, "topk": 1},
            {"null_routing_mode": "topk = 1, where no choice follows another", "renormalize_real_after_null": None},
        ),
        ({"null_route_frac": 1.0}, {"renormalize_real_after_null": "null_route_frac = 1"}),
        # a field that is set back makes another one irrelevant
        (
            {"quant_mode": "int8", "quant_vjp": "autodiff", "bench_pass": "forward_backward"},
            {"quant_mode": "int8 is the shared expert's, and shared_expert_dim = 0", "quant_vjp": "quant_mode = none"},
        ),
        (
            {"parallel_mode": "ref_dp", "impl": "fast", "w13_param": "concat"},
            {"impl": "parallel_mode = ref_dp, which groups nothing", "w13_param": "impl = baseline"},
        ),
        ({"queue_mode": "prequeue"}, {"routing_pack_strategy": "queue_mode = prequeue"}),
        ({"backend": "gmm"}, {"tiles.forward": None, "tiles.dlhs": "bench_pass = forward"}),
        ({"backend": "gmm", "bench_pass": "forward_backward"}, {"tiles.drhs": None, "matmul_vjp": "backend = gmm"}),
        ({"backend": "blocked", "bench_pass": "forward_backward"}, {"tiles.drhs": "backend = blocked"}),
        (
            {"backend": "ragged_dot", "bench_pass": "forward_backward"},
            {"tiles.drhs": None, "tiles.dlhs": "backend = ragged_dot, which has a tile for drhs only"},
        ),
        (
            {"backend": "ragged_dot", "bench_pass": "forward_backward", "matmul_vjp": "autodiff"},
            {"tiles.drhs": "matmul_vjp = autodiff"},
        ),
        ({"parallel_mode": "ep"}, {"devices": None, "buffer_rows": None}),
        ({"parallel_mode": "ep_dense"}, {"buffer_rows": "parallel_mode = ep_dense, whose devices hold every row"}),
        (
            {"parallel_mode": "ep", "capacity_policy": "pad", "capacity_factor": 1},
            {"buffer_rows": "capacity_policy = pad"},
        ),
        ({"parallel_mode": "ep_a2a", "capacity_policy": "pad", "capacity_factor": 1}, {"buffer_rows": None}),
        ({"null_route_frac": 0.5}, {"buffer_rows": None}),
    ],
)
def test_irrelevant_names_the_choice_that_makes_a_field_so(
    fields: dict[str, Any], irrelevant: dict[str, str | None]
) -> None:
    found = parse_job(BLOCK | fields).irrelevant()
    assert {name: found.get(name) for name in irrelevant} == irrelevant


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        (
            {"quant_mode": "int8", "quant_vjp": "autodiff", "bench_pass": "forward_backward"},
            {"backend": "blocked", "bench_pass": "forward_backward"},
        ),
        (
            {"parallel_mode": "ref_dp", "routing": "softmax_topk", "impl": "fast", "w13_param": "concat"},
            {"parallel_mode": "ref_dp", "routing": "softmax_topk"},
        ),
        (
            {"routing": "softmax_topk", "renormalize_topk": True, "null_route_frac": 1.0}
            | {"renormalize_real_after_null": False},
            {"backend": "blocked", "routing": "softmax_topk", "null_route_frac": 1.0},
        ),
        (
            {"backend": "gmm", "tiles": {"forward": [128, 128, 128], "drhs": [128, 128, 128]}},
            {"tiles": {"forward": [128, 128, 128]}},
        ),
    ],
)
def test_canonical_form_of_fields_that_depend_on_each_other_has_none_that_cannot_matter(
    fields: dict[str, Any], left: dict[str, Any]
) -> None:
    sizes = {name: BLOCK[name] for name in REQUIRED}
    assert parse_job(BLOCK | fields).canonical() == {"kind": "moe_block"} | sizes | left


PREQUEUE = "queue_mode = prequeue"
TABLE: list[tuple[dict[str, Any], str | None]] = [
    ({"topk": 9}, "topk = 9 is more than experts = 8: a token goes to an expert at most once"),
    ({"topk": 8}, None),
    ({"tokens": 2**30}, "tokens x topk = 2147483648 assignments cannot be indexed with int32"),
    (
        {"capacity_policy": "pad"},
        "capacity_factor = 0 keeps no assignment; capacity_policy = pad needs one above 0",
    ),
    (
        {"capacity_policy": "drop"},
        "capacity_factor = 0 keeps no assignment; capacity_policy = drop needs one above 0",
    ),
    (
        {"tokens": 2**26, "capacity_policy": "pad", "capacity_factor": 32},
        "experts x capacity = 4294967296 rows cannot be indexed with int32",
    ),
    ({"parallel_mode": "fused_ep"}, "parallel_mode = fused_ep is not built yet"),
    ({"backend": "hillclimb"}, "backend = hillclimb is not built yet"),
    ({"parallel_mode": "ref_dp"}, "parallel_mode = ref_dp routes inside the step; set routing = softmax_topk"),
    ({"parallel_mode": "staged_dp"}, "parallel_mode = staged_dp routes inside the step; set routing = softmax_topk"),
    *(
        (
            {"parallel_mode": mode, "routing": "softmax_topk", "bench_pass": "forward_backward"},
            f"parallel_mode = {mode} is of the profile harness, which has no backward pass; set bench_pass = forward",
        )
        for mode in ("ref_dp", "staged_dp")
    ),
    (
        {"parallel_mode": "ref_dp", "routing": "softmax_topk", "capacity_policy": "drop", "capacity_factor": 1},
        "parallel_mode = ref_dp has no place where all rows of an expert meet; set capacity_policy = none",
    ),
    (
        {"parallel_mode": "ref_dp", "routing": "softmax_topk", "quant_mode": "int8_routed"},
        "parallel_mode = ref_dp is the plain block, which has no quant_mode = int8_routed",
    ),
    ({"parallel_mode": "ref_dp", "routing": "softmax_topk", "quant_mode": "int8"}, None),
    (
        {"parallel_mode": "ref_dp", "routing": "softmax_topk", "stage_timing": True},
        "parallel_mode = ref_dp has no stages to time; set stage_timing = false",
    ),
    ({"parallel_mode": "ref_dp", "routing": "softmax_topk", "backend": "hillclimb"}, None),
    ({"parallel_mode": "staged_dp", "routing": "softmax_topk", "stage_timing": True}, None),
    ({"backend": "tokamax", "bench_pass": "forward_backward"}, "backend = tokamax is used for the forward pass only"),
    ({"backend": "tokamax"}, None),
    (
        {"queue_mode": "prequeue", "bench_pass": "forward_backward"},
        f"{PREQUEUE}: dispatch is part of what forward_backward differentiates",
    ),
    *(
        (
            {"queue_mode": "prequeue", "parallel_mode": mode},
            f"{PREQUEUE}: parallel_mode = {mode} dispatches between devices",
        )
        for mode in ("ep_dense", "ep", "ep_ring", "ep_a2a")
    ),
    (
        {"queue_mode": "prequeue", "routing": "softmax_topk"},
        f"{PREQUEUE} packs before the step, routing = softmax_topk routes inside it",
    ),
    ({"queue_mode": "prequeue", "stage_timing": True}, f"{PREQUEUE} leaves pack out, which stage_timing times"),
    (
        {"stage_timing": True, "bench_pass": "forward_backward"},
        "stage_timing times the stages of the forward pass; set bench_pass = forward",
    ),
    *(
        (
            {"quant_mode": mode, "backend": backend, "shared_expert_dim": 64},
            words,
        )
        for mode in ("int8_routed", "int8_all", "int8_routed_prequant")
        for backend, words in (
            ("gmm", "backend = gmm: megablox has no int8; the logbooks silently switched to ragged_dot"),
            ("tokamax", "backend = tokamax: its int8 product is not used here; take ragged_dot or blocked"),
            ("ragged_dot", None),
            ("blocked", None),
        )
    ),
    *(({"quant_mode": mode, "backend": "gmm", "shared_expert_dim": 64}, None) for mode in ("int8", "int8_qdq")),
    ({"quant_mode": "int8_all"}, "quant_mode = int8_all without a shared expert is int8_routed; write that"),
    (
        {"quant_mode": "int8_routed_prequant", "impl": "fast", "w13_param": "concat"},
        "w13_param = concat joins weights inside the step, quant_mode = int8_routed_prequant before it",
    ),
    ({"quant_mode": "int8_routed_prequant", "w13_param": "concat"}, None),
]


@pytest.mark.parametrize(("fields", "refusal"), TABLE)
def test_refusal_of_a_combination_says_what_does_not_go_with_what(fields: dict[str, Any], refusal: str | None) -> None:
    assert parse_job(BLOCK | fields).refusal() == refusal


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1, 1.25])
def test_capacity_is_the_ceiling_of_the_factors_decimal_form(factor: float) -> None:
    job = parse_job(BLOCK | {"tokens": 40, "topk": 2, "capacity_policy": "drop", "capacity_factor": factor})
    assert job.capacity == {0.5: 5, 1.0: 10, 1.1: 11, 1.25: 13}[factor]


def test_id_of_old_jobs_is_what_it_was_before_backend_had_a_default() -> None:
    job = parse_job(BLOCK | {"impl": "fused_w13", "env": {"B": "2", "A": "1"}})
    assert job.id == "688bb4096fbb02c36e3c67a5829a53bc4d88698e5f1afe4790e57934877aa301"
    assert job.canonical()["backend"] == "blocked"
    assert "backend" not in parse_job(BLOCK | {"backend": "gmm"}).canonical()


@pytest.mark.parametrize(
    "tiles",
    [
        {"forward": [128, 128]},
        {"forward": [128, 128, 128, 128]},
        {"forward": [128, 128, 0]},
        {"forward": [128, 128, 1.5]},
        {"backward": [128, 128, 128]},
        {"forward": 128},
        [128, 128, 128],
    ],
)
def test_parse_job_of_wrong_tiles_raises(tiles: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse_job(BLOCK | {"tiles": tiles})
