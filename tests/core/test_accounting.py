"""Rates against numbers worked by hand, and against the logbooks' own."""

from typing import Any

import pytest

from core.accounting import (
    ROUTING_VERSION,
    VERSION,
    Rows,
    executed_flops,
    fixed_rows,
    ici_bytes_per_device,
    model_flops,
    rates,
    routing_rates,
)
from core.job import MoeBlockJob
from core.job.micro import CombineOnlyJob, MoeLayerJob, PackJob, PackOnlyJob, TopkJob

SHAPE_A = {"tokens": 32768, "hidden": 2048, "mlp_dim": 768, "experts": 128, "topk": 8, "backend": "ragged_dot"}
SMALL = {"tokens": 10, "hidden": 5, "mlp_dim": 7, "experts": 4, "topk": 2}
# of SMALL: a row of the experts, a token of a shared expert 3 wide
ROW = 6 * 5 * 7
SHARED_TOKEN = 6 * 5 * 3


def block(**fields: Any) -> MoeBlockJob:
    return MoeBlockJob(**(SHAPE_A | fields))


def small(**fields: Any) -> MoeBlockJob:
    return MoeBlockJob(**(SMALL | fields))


@pytest.mark.parametrize(
    ("fields", "model", "executed"),
    [
        ({}, 4 * ROW, 6 * ROW),
        ({"shared_expert_dim": 3}, 4 * ROW + 10 * SHARED_TOKEN, 6 * ROW + 10 * SHARED_TOKEN),
        ({"bench_pass": "forward_backward"}, 12 * ROW, 18 * ROW),
        (
            {"bench_pass": "forward_backward", "shared_expert_dim": 3},
            3 * (4 * ROW + 10 * SHARED_TOKEN),
            3 * (6 * ROW + 10 * SHARED_TOKEN),
        ),
        # only what is rematerialised is computed four times, and only by a backward pass
        (
            {"bench_pass": "forward_backward", "shared_expert_dim": 3, "remat_mode": "expert_mlp"},
            3 * (4 * ROW + 10 * SHARED_TOKEN),
            4 * 6 * ROW + 3 * 10 * SHARED_TOKEN,
        ),
        ({"bench_pass": "forward_backward", "remat_mode": "combine"}, 12 * ROW, 18 * ROW),
        ({"remat_mode": "expert_mlp"}, 4 * ROW, 6 * ROW),
    ],
)
def test_flops_of_four_model_and_six_executed_rows(fields: dict[str, Any], model: int, executed: int) -> None:
    assert (model_flops(small(**fields), 4), executed_flops(small(**fields), 6)) == (model, executed)


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, Rows(20, 20)),
        ({"parallel_mode": "ep"}, Rows(20, 20)),
        ({"capacity_policy": "drop", "capacity_factor": 1.0}, Rows(None, 20)),
        # 4 experts of ceil(1 x 10 x 2 / 4) = 5 rows, and of 10: as many as there are tokens, which drops nothing
        ({"capacity_policy": "pad", "capacity_factor": 1.0}, Rows(None, 20)),
        ({"capacity_policy": "pad", "capacity_factor": 1.1}, Rows(None, 24)),
        ({"capacity_policy": "pad", "capacity_factor": 2.0}, Rows(20, 40)),
        ({"null_route_frac": 0.5}, Rows(None, None)),
        ({"null_route_frac": 1.0}, Rows(0, 0)),
        ({"null_route_frac": 0.5, "capacity_policy": "pad", "capacity_factor": 2.0}, Rows(None, 40)),
        ({"null_route_frac": 1.0, "capacity_policy": "pad", "capacity_factor": 1.0}, Rows(0, 20)),
        ({"parallel_mode": "ref_dp"}, Rows(20, 40)),
        ({"parallel_mode": "ref_dp", "null_route_frac": 0.5}, Rows(None, 40)),
    ],
)
def test_fixed_rows_are_those_no_routing_can_change(fields: dict[str, Any], rows: Rows) -> None:
    assert fixed_rows(small(**fields)) == rows


def test_rates_take_the_rows_a_run_counted() -> None:
    job = small(null_route_frac=0.5)
    result = rates(job, 2.0, 1, "TPU v5", Rows(model=9, executed=11))
    assert (result.model_flops, result.executed_flops) == (9 * ROW, 11 * ROW)
    assert result.tflops == pytest.approx(9 * ROW / 2e12)
    assert result.tflops_executed == pytest.approx(11 * ROW / 2e12)
    assert result.tokens_per_s == 5


def test_rates_of_rows_nobody_knows_are_none() -> None:
    result = rates(small(null_route_frac=0.5), 2.0, 1, "TPU v5")
    names = ("model_flops", "executed_flops", "tflops", "tflops_per_device", "mfu", "tflops_executed", "hfu")
    assert {getattr(result, name) for name in names} == {None}
    dropping = rates(small(capacity_policy="drop", capacity_factor=1.0), 2.0, 1, "TPU v5")
    assert (dropping.tflops, dropping.mfu) == (None, None)
    assert dropping.executed_flops == 20 * ROW
    assert dropping.hfu is not None


def test_rates_of_a_logbook_row_are_the_logbooks() -> None:
    # moe_hillclimb_harness, shape A, random, baseline: time_s=0.023696, tflops=104.404
    assert rates(block(), 0.023696, 1, "TPU v5").tflops == pytest.approx(104.404, rel=1e-4)


def test_rates_on_several_devices_are_shared_among_them() -> None:
    one, four = rates(block(), 0.01, 1, "TPU v5"), rates(block(), 0.01, 4, "TPU v5")
    assert one.tflops is not None
    assert one.mfu is not None
    assert four.mfu is not None
    assert four.tflops == one.tflops
    assert four.tflops_per_device == pytest.approx(one.tflops / 4)
    assert one.mfu == pytest.approx(one.tflops * 1e12 / 459e12)
    assert one.mfu == pytest.approx(4 * four.mfu)
    assert (one.hfu, one.tflops_executed) == (one.mfu, one.tflops)


def test_rates_of_int8_are_fractions_of_the_bf16_peak() -> None:
    assert rates(block(quant_mode="int8_routed"), 0.01, 1, "TPU v5") == rates(block(), 0.01, 1, "TPU v5")


def test_rates_without_a_published_peak_have_no_fraction_of_it() -> None:
    result = rates(block(), 0.01, 4, "cpu")
    assert (result.mfu, result.hfu) == (None, None)
    assert result.tflops is not None
    assert result.version == VERSION == "moe/1"


def test_rates_of_tokens_and_bytes_follow_their_formulas() -> None:
    result = rates(block(), 0.5, 1, "cpu")
    assert result.tokens_per_s == 65536
    assert result.bytes_per_token_strict == (2 + 16) * 2048 * 2
    assert result.bw_gibps_strict == pytest.approx((2 + 16) * 2048 * 2 * 65536 / 2**30)
    assert rates(block(dtype="float32"), 0.5, 1, "cpu").bytes_per_token_strict == (2 + 16) * 2048 * 4


@pytest.mark.parametrize(
    ("fields", "executed", "devices", "expected"),
    [
        ({}, None, 1, 0),
        ({"parallel_mode": "ref_dp"}, None, 4, 0),
        ({"parallel_mode": "staged_dp"}, None, 4, 0),
        # 2 x 3/4 x 10 tokens x 5 x 2 bytes
        ({"parallel_mode": "ep"}, None, 4, 150),
        ({"parallel_mode": "ep_dense"}, None, 4, 150),
        ({"parallel_mode": "ep_ring"}, None, 4, 150),
        ({"parallel_mode": "ep", "bench_pass": "forward_backward"}, None, 4, 300),
        ({"parallel_mode": "ep", "dtype": "float32"}, None, 2, 200),
        ({"parallel_mode": "ep"}, None, 1, 0),
        # 2 x 3/4 x 20/4 rows x 5 x 2 bytes, whatever is padded or dropped on arrival
        ({"parallel_mode": "ep_a2a"}, None, 4, 75),
        ({"parallel_mode": "ep_a2a", "capacity_policy": "pad", "capacity_factor": 2.0}, 40, 4, 75),
        ({"parallel_mode": "ep_a2a", "null_route_frac": 0.5}, 12, 4, 45),
        ({"parallel_mode": "ep_a2a", "null_route_frac": 0.5}, None, 4, None),
        (
            {"parallel_mode": "ep_a2a", "null_route_frac": 0.5, "capacity_policy": "pad", "capacity_factor": 2.0},
            40,
            4,
            None,
        ),
    ],
)
def test_ici_bytes_are_those_of_the_modes_collectives(
    fields: dict[str, Any], executed: int | None, devices: int, expected: float | None
) -> None:
    job, rows = small(**fields), Rows(executed=executed)
    assert ici_bytes_per_device(job, rows, devices) == expected
    assert rates(job, 1.0, devices, "cpu", rows).ici_bytes_per_device == expected


@pytest.mark.parametrize(
    ("job", "strict"),
    [
        (PackJob(tokens=64, hidden=32, experts=4, topk=3), 8 * 32 * 2),
        (PackJob(tokens=64, hidden=32, experts=4, topk=3, dtype="float16"), 8 * 32 * 2),
        (MoeLayerJob(tokens=64, hidden=32, experts=4, topk=3, dtype="float32"), 8 * 32 * 4),
        (PackOnlyJob(tokens=64, hidden=32, experts=4, topk=3), 4 * 32 * 2),
        (CombineOnlyJob(tokens=64, hidden=32, experts=4, topk=3), 4 * 32 * 2),
        (TopkJob(tokens=64, experts=4, topk=3), None),
    ],
)
def test_routing_rates_count_what_must_be_moved(job: Any, strict: int | None) -> None:
    result = routing_rates(job, 0.5)
    assert (result.version, result.tokens_per_s, result.bytes_per_token_strict) == (ROUTING_VERSION, 128, strict)
    assert result.bw_gibps_strict == (None if strict is None else pytest.approx(strict * 128 / 2**30))


@pytest.mark.parametrize(("seconds", "devices"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_rates_from_no_time_or_no_device_raise(seconds: float, devices: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        rates(block(), seconds, devices, "cpu")


def test_routing_rates_from_no_time_raise() -> None:
    with pytest.raises(ValueError, match="above 0"):
        routing_rates(TopkJob(tokens=64, experts=4, topk=3), 0.0)
