"""Rates against numbers worked by hand, and against the logbooks' own."""

from typing import Any

import pytest

from core.accounting import VERSION, executed_rows, flops, model_rows, rates
from core.job import MoeBlockJob

SHAPE_A = {"tokens": 32768, "hidden": 2048, "mlp_dim": 768, "experts": 128, "topk": 8, "backend": "ragged_dot"}


def block(**fields: Any) -> MoeBlockJob:
    return MoeBlockJob(**(SHAPE_A | fields))


def test_flops_of_a_row_are_six_times_the_expert() -> None:
    job = block(tokens=3, hidden=5, mlp_dim=7, experts=4, topk=2)
    assert flops(job, 1) == 6 * 5 * 7
    assert model_rows(job) == executed_rows(job) == 6
    assert rates(job, 1.0, 1, "cpu").model_flops == 6 * 5 * 7 * 6


def test_flops_of_forward_backward_are_three_times_the_forward() -> None:
    assert flops(block(bench_pass="forward_backward"), 10) == 3 * flops(block(), 10)


def test_rates_of_a_logbook_row_are_the_logbooks() -> None:
    # moe_hillclimb_harness, shape A, random, baseline: time_s=0.023696, tflops=104.404
    assert rates(block(), 0.023696, 1, "TPU v5").tflops == pytest.approx(104.404, rel=1e-4)


def test_rates_on_several_devices_are_shared_among_them() -> None:
    one, four = rates(block(), 0.01, 1, "TPU v5"), rates(block(), 0.01, 4, "TPU v5")
    assert four.tflops == one.tflops
    assert four.tflops_per_device == pytest.approx(one.tflops / 4)
    assert one.mfu == pytest.approx(one.tflops * 1e12 / 459e12)
    assert four.mfu is not None
    assert one.mfu == pytest.approx(4 * four.mfu)
    assert (one.hfu, one.tflops_executed) == (one.mfu, one.tflops)


def test_rates_without_a_published_peak_have_no_fraction_of_it() -> None:
    result = rates(block(), 0.01, 4, "cpu")
    assert (result.mfu, result.hfu) == (None, None)
    assert result.tflops > 0
    assert result.version == VERSION == "moe/1"


def test_rates_of_tokens_and_bytes_follow_their_formulas() -> None:
    result = rates(block(), 0.5, 1, "cpu")
    assert result.tokens_per_s == 65536
    assert result.bytes_per_token_strict == (2 + 16) * 2048 * 2
    assert result.bw_gibps_strict == pytest.approx((2 + 16) * 2048 * 2 * 65536 / 2**30)
    assert rates(block(dtype="float32"), 0.5, 1, "cpu").bytes_per_token_strict == (2 + 16) * 2048 * 4


@pytest.mark.parametrize(("seconds", "devices"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_rates_from_no_time_or_no_device_raise(seconds: float, devices: int) -> None:
    with pytest.raises(ValueError, match="above 0"):
        rates(block(), seconds, devices, "cpu")
