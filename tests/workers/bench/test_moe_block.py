"""The block's bench through all its steps, as a runner takes it, on four emulated devices."""

import jax
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench.bench import Checked, JobFault, Measured, Unsupported
from workers.bench.moe_block import MoeBlockBench
from workers.moe import stages


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 64, "hidden": 32, "mlp_dim": 24, "experts": 8, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(**{**small, "backend": "blocked", **fields})


def prepared(chosen: MoeBlockJob) -> tuple[MoeBlockBench, Checked]:
    bench = MoeBlockBench(chosen)
    bench.inputs()
    bench.lower()
    bench.compile()
    return bench, bench.check()


def timed(bench: MoeBlockBench, calls: int) -> Measured:
    bench.drop()
    bench.place()
    bench.warmup(1)
    return bench.measure(calls)


def numbers(of: Checked | Measured, name: str) -> dict[str, float]:
    return {measure.scope: measure.value for measure in of.measures if measure.name == name}


@pytest.mark.parametrize(
    ("fields", "model", "executed"),
    [
        ({}, 128, 128),
        ({"null_route_frac": 1.0}, 0, 0),
        ({"capacity_policy": "pad", "capacity_factor": 2.0}, 128, 256),
        ({"parallel_mode": "ref_dp", "routing": "softmax_topk"}, 128, 512),
    ],
)
def test_check_rows_are_counted(fields, model, executed):
    _, checked = prepared(job(**fields))
    assert checked.refusal is None
    assert (numbers(checked, "model_rows")[""], numbers(checked, "executed_rows")[""]) == (model, executed)


def test_check_dropped_and_null_assignments_are_no_model_rows():
    _, checked = prepared(job(null_route_frac=0.4, capacity_policy="drop", capacity_factor=0.5))
    null, drop = numbers(checked, "null_frac")[""], numbers(checked, "drop_frac")[""]
    assert null == pytest.approx(0.4, abs=0.1)
    assert 0 < drop < 0.5
    assert numbers(checked, "executed_rows")[""] == pytest.approx(128 * (1 - null))
    assert numbers(checked, "model_rows")[""] == pytest.approx(128 * (1 - null) * (1 - drop))


@pytest.mark.parametrize(("parallel_mode", "devices"), [("none", 1), ("ep", 4), ("ep_a2a", 4)])
def test_measure_stage_timing_gives_every_stage_and_their_sum(parallel_mode, devices):
    bench, checked = prepared(job(parallel_mode=parallel_mode, stage_timing=True, shared_expert_dim=16))
    assert checked.refusal is None
    assert bench.devices == devices
    found = timed(bench, 3)
    of_mode = {"none": [], "ep": ["reduce"], "ep_a2a": ["exchange", "regroup", "back"]}[parallel_mode]
    stage_ns = numbers(found, "stage_ns")
    assert set(stage_ns) == {"pack", "up", "down", "combine", "shared", *of_mode}
    total = sum(stage_ns.values())
    assert numbers(found, "stage_sum_ns")[""] == pytest.approx(total)
    assert numbers(found, "stage_sum_of_whole")[""] == pytest.approx(total / np.median(found.wall_ns))
    assert len(found.wall_ns) == 3


def test_check_stage_that_is_wrong_alone_is_refused(monkeypatch):
    bench = MoeBlockBench(job(stage_timing=True))
    bench.inputs()
    bench.lower()
    right = stages.combine
    bench._executable, _ = bench._lowered.compile()
    monkeypatch.setattr(stages, "combine", lambda *of: right(*of) * 1.01)
    bench.compile()
    assert bench.check().refusal.startswith("the stages one by one: y is off by 1.0e-02")


def test_place_prequeue_packs_again_without_compiling():
    bench, checked = prepared(job(queue_mode="prequeue", impl="preweight", shared_expert_dim=16, null_route_frac=0.3))
    assert checked.refusal is None
    bench.drop()
    compiles: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiles.append(event))
    bench.place()
    assert "packed" in bench._placed
    assert "ids" not in bench._placed
    assert [event for event in compiles if "backend_compile" in event] == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"experts": 6, "parallel_mode": "ep"}, "experts = 6 cannot be split over 4 devices by ep"),
        ({"tokens": 63, "parallel_mode": "ep_ring"}, "tokens = 63 cannot be split over 4 devices by ep_ring"),
        (
            {"tokens": 63, "parallel_mode": "ep", "shared_expert_dim": 8},
            "tokens = 63 cannot be split over 4 devices by ep",
        ),
    ],
)
def test_inputs_that_cannot_be_split_are_unsupported(fields, reason):
    with pytest.raises(Unsupported) as raised:
        MoeBlockBench(job(**fields)).inputs()
    assert str(raised.value) == reason


@pytest.mark.parametrize(
    ("fields", "timed"),
    [({}, True), ({"backend": "gmm"}, False), ({"parallel_mode": "ref_dp", "routing": "softmax_topk"}, True)],
)
def test_timed_kernel_of_a_tpu_is_not_timed_elsewhere(fields, timed):
    assert MoeBlockBench(job(**fields)).timed is timed


def test_compile_program_that_conforms_to_another_job_is_refused(monkeypatch):
    monkeypatch.setattr("workers.moe.stages.routed_numbers", lambda _: stages.Numbers.IN_DTYPE)
    bench = MoeBlockBench(job(quant_mode="int8_routed", backend="ragged_dot"))
    bench.inputs()
    bench.lower()
    with pytest.raises(JobFault, match="quant_mode = int8_routed, and the program multiplies no int8 in up"):
        bench.compile()


def test_drop_lets_go_of_every_array():
    before = sum(array.nbytes for array in jax.live_arrays())
    bench, _ = prepared(job(stage_timing=True))
    timed(bench, 1)
    bench.drop()
    assert sum(array.nbytes for array in jax.live_arrays()) <= before
