"""Every kind through its bench, and wrong kernels on the way."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.job import parse_job
from workers.micro.bench import MicroBench
from workers.micro.check import check
from workers.micro.kinds import DEFINITIONS
from workers.micro.reference import reference
from workers.moe.stages import Stage

BATCH = {"tokens": 48, "experts": 4, "topk": 2}
MOVED = {**BATCH, "hidden": 16}
ARMS: list[dict[str, Any]] = [
    {"kind": "topk", **BATCH, "topk_impl": "sort"},
    {"kind": "routing", **MOVED, "strategy": "softk", "temperature": 2.0, "soft_normalize": False},
    {"kind": "pack", **MOVED},
    {"kind": "pack_only", **MOVED},
    {"kind": "combine_only", **MOVED},
    {"kind": "moe_layer", **MOVED, "expand": 2, "backend": "blocked"},
    {"kind": "moe_layer", **MOVED, "expand": 2, "backend": "ragged_dot"},
    {"kind": "capacity", **MOVED, "capacity_factor": 0.5, "renorm_after_drop": True, "topk_impl": "argmax"},
    {"kind": "capacity", **MOVED, "capacity_factor": 5.0},
    # every token to every expert, one token, one expert
    {"kind": "routing", **MOVED, "topk": 4},
    {"kind": "pack", **MOVED, "tokens": 1},
    {"kind": "moe_layer", **MOVED, "experts": 1, "topk": 1, "expand": 1},
    {"kind": "topk", **BATCH, "strategy": "top1", "topk": 1},
]
STAGES = {
    "topk": [],
    "routing": ["route", "pack", "combine"],
    "pack": ["pack", "combine"],
    "pack_only": ["sort", "gather"],
    "combine_only": [],
    "moe_layer": ["pack", "ffn", "combine"],
    "capacity": ["route", "pack", "combine"],
}


def prepared(fields: dict[str, Any]) -> MicroBench:
    made = MicroBench(parse_job(fields))
    made.inputs()
    made.lower()
    made.compile()
    return made


def label(fields: dict[str, Any]) -> str:
    return "-".join(str(value) for value in fields.values())


@pytest.mark.parametrize("fields", [{**arm, "dtype": "float32"} for arm in ARMS], ids=label)
def test_bench_of_a_kind_is_right_and_timed_with_its_stages(fields):
    bench = prepared(fields)
    checked = bench.check()
    assert checked.refusal is None
    errors = [measure.value for measure in checked.measures if measure.name == "worst_error"]
    assert max(errors, default=0) < 2e-6
    bench.drop()
    bench.place()
    bench.warmup(1)
    measured = bench.measure(20)
    assert len(measured.wall_ns) == 2
    assert min(measured.wall_ns) > 0
    stage_ns = {measure.scope: measure.value for measure in measured.measures if measure.name == "stage_ns"}
    assert list(stage_ns) == STAGES[fields["kind"]]
    found = {measure.name: measure.value for measure in measured.measures}
    if stage_ns:
        assert found["stage_sum_ns"] == sum(stage_ns.values())
        assert found["stage_sum_of_whole"] == pytest.approx(sum(stage_ns.values()) / np.median(measured.wall_ns))
    assert ("routing_share" in found) is (fields["kind"] == "moe_layer")
    if "routing_share" in found:
        assert found["routing_share"] == pytest.approx(1 - stage_ns["ffn"] / sum(stage_ns.values()))


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [(ARMS[4], "bfloat16"), (ARMS[5], "bfloat16"), (ARMS[6], "float16"), (ARMS[7], "float16")],
)
def test_bench_in_16_bits_is_right_within_its_rounding(fields, dtype):
    checked = prepared({**fields, "dtype": dtype}).check()
    assert checked.refusal is None
    errors = [measure.value for measure in checked.measures if measure.name == "worst_error"]
    assert 0 < max(errors) < 4 * jnp.finfo(dtype).eps


def test_bench_counts_what_a_capacity_drops():
    bench = prepared({**ARMS[7], "dtype": "float32"})
    found = {measure.name: measure.value for measure in bench.check().measures}
    # 4 experts keep 12 rows each of 96 assignments
    assert found["load_mean"] == 24
    assert found["avg_drop_rate"] == pytest.approx(0.5)
    y = np.asarray(bench._call()["y"])
    assert found["token_drop_rate"] == np.mean(~y.any(axis=1)) > 0


def test_bench_load_is_that_of_the_experts():
    bench = prepared({**ARMS[0], "dtype": "float32"})
    found = {measure.name: measure.value for measure in bench.check().measures}
    load = np.bincount(np.asarray(bench._call()["ids"]).reshape(-1), minlength=4)
    assert (found["load_mean"], found["load_cv"]) == (24, pytest.approx(load.std() / load.mean()))


def swapped_rows(array: jax.Array) -> jax.Array:
    return array.at[jnp.array([0, 1])].set(array[jnp.array([1, 0])])


WRONG = {
    "ids of another expert": ("ids", lambda ids: ids.at[5, 0].set((ids[5, 0] + 1) % 4), "ids is wrong in 1 of"),
    "gates off by a percent": ("gates", lambda gates: gates * 1.01, "gates is off by 1.0e-02"),
    "one gate of many": ("gates", lambda gates: gates.at[7, 1].multiply(1.001), "gates is off"),
    "two packed rows swapped": ("packed", swapped_rows, "packed is wrong in 2 of its 96 rows, first in row 0"),
    "one packed value lost": ("packed", lambda packed: packed.at[9, 3].set(0), "packed is wrong in 1 of"),
    "y of another token": ("y", swapped_rows, "y is off"),
    "y not a number": ("y", lambda y: y.at[0, 0].set(jnp.nan), "y is off by nan"),
    "y in another dtype": ("y", lambda y: y.astype(jnp.float16), "y is float16, and the job's dtype is float32"),
}


@pytest.fixture(scope="module")
def routed():
    """What a routing returned, and what it had to."""
    bench = prepared({**ARMS[1], "dtype": "float32"})
    return bench._call(), reference(bench.job, bench._drawn)


@pytest.mark.parametrize("wrong", WRONG)
def test_check_of_a_wrong_output_refuses_it(routed, wrong):
    name, spoil, words = WRONG[wrong]
    returned, expected = routed
    assert check(returned, expected, "float32").refusal is None
    refusal = check(returned | {name: spoil(returned[name])}, expected, "float32").refusal
    assert refusal is not None
    assert words in refusal


def test_check_of_a_wrong_place_names_it():
    bench = prepared({**ARMS[3], "dtype": "float32"})
    returned, expected = bench._call(), reference(bench.job, bench._drawn)
    sizes = returned["dispatch"].group_sizes
    wrong = returned["dispatch"]._replace(group_sizes=sizes.at[0].add(1).at[1].add(-1))
    refusal = check(returned | {"dispatch": wrong}, expected, "float32").refusal
    assert refusal == "dispatch.group_sizes is wrong in 2 of its 4 rows, first in row 0"


def reversed_inside(stage: Stage) -> Stage:
    """A stage that returns what it should, the last of it turned round."""

    def run(state):
        returned = stage.run(state)
        name = list(returned)[-1]
        return returned | {name: jax.tree.map(lambda array: array[::-1], returned[name])}

    return Stage(stage.name, run)


@pytest.mark.parametrize(
    ("kind", "position"),
    [
        ("topk", 0),
        ("pack_only", 0),
        ("pack_only", 1),
        ("combine_only", 0),
        ("moe_layer", 1),
        ("capacity", 0),
        ("capacity", 1),
        ("capacity", 2),
    ],
)
def test_bench_with_a_wrong_kernel_in_any_stage_is_refused(monkeypatch, kind, position):
    fields = next(arm for arm in ARMS if arm["kind"] == kind)
    right = DEFINITIONS[kind]

    def stages(job):
        made = right.stages(job)
        return tuple(reversed_inside(stage) if at == position else stage for at, stage in enumerate(made))

    monkeypatch.setitem(DEFINITIONS, kind, right._replace(stages=stages))
    refusal = prepared({**fields, "dtype": "float32"}).check().refusal
    assert refusal is not None


def test_bench_with_a_kernel_that_is_wrong_only_alone_is_refused(monkeypatch):
    right = DEFINITIONS["pack"]
    traced = itertools.count()

    def stages(job):
        pack, combine = right.stages(job)

        def run(state):
            # the whole is traced first
            return combine.run(state) if next(traced) == 0 else {"y": 2 * combine.run(state)["y"]}

        return pack, Stage("combine", run)

    monkeypatch.setitem(DEFINITIONS, "pack", right._replace(stages=stages))
    refusal = prepared({**ARMS[2], "dtype": "float32"}).check().refusal
    assert refusal is not None
    assert refusal.startswith("stage combine alone: y is off by 1.0e+00")


def test_bench_field_that_cannot_matter_makes_the_same_program():
    plain, other = (
        MicroBench(parse_job({**ARMS[8], "dtype": "float32", "renorm_after_drop": renorm})) for renorm in (False, True)
    )
    assert plain.inputs() == other.inputs()
    assert plain.lower() == other.lower()


def test_bench_arms_of_topk_are_other_programs_on_the_same_inputs():
    benches = [MicroBench(parse_job({**ARMS[0], "topk_impl": impl})) for impl in ("lax", "sort", "argmax")]
    assert len({bench.inputs() for bench in benches}) == 1
    assert len({bench.lower() for bench in benches}) == 3


def test_bench_packed_rows_are_written_before_experts_that_do_nothing_are_combined():
    bench = prepared({**ARMS[2], "dtype": "float32"})
    # without the barrier XLA may gather y from x, and pack nothing
    assert bench._lowered.stage.as_text().count("optimization_barrier") == 1
