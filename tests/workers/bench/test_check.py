"""The check lets right code through and refuses faults put into the real composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench import check as checking
from workers.bench.bench import Checked
from workers.bench.inputs import draw, stream
from workers.bench.placement import place
from workers.bench.subset import closed_subset
from workers.moe import block, experts
from workers.moe.grouped.blocked import BLOCKED
from workers.moe.step import step


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 96, "hidden": 32, "mlp_dim": 24, "experts": 6, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(
        **{**small, "backend": "blocked", "impl": "fused_w13", "bench_pass": "forward_backward", **fields}
    )


def checked(chosen: MoeBlockJob) -> Checked:
    drawn = draw(chosen)
    placed = place(drawn)
    return checking.check(chosen, drawn, placed, jax.jit(step(chosen))(*placed))


@pytest.fixture
def on_subset(monkeypatch):
    """The closed subset, at a size that fits a test."""
    monkeypatch.setattr(checking, "WHOLE_FLOPS", {"cpu": 0})
    monkeypatch.setattr("workers.bench.subset.DRAWN_TOKENS", 4)


@pytest.mark.parametrize("bench_pass", ["forward", "forward_backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("extent", ["whole", "subset"])
def test_check_right_code_passes_with_small_errors(request, extent, dtype, bench_pass):
    if extent == "subset":
        request.getfixturevalue("on_subset")
    found = checked(job(dtype=dtype, bench_pass=bench_pass))
    assert found.refusal is None
    scopes = {"y"} if bench_pass == "forward" else {"loss", "dx", "dw1", "dw2", "dw3"}
    assert {(measure.name, measure.scope) for measure in found.measures} == {
        (name, scope) for name in ("rel_error", "worst_error") for scope in scopes
    }
    assert max(measure.value for measure in found.measures) < (1e-6 if dtype == "float32" else 1.5e-2)


def wrong_combine_weight(monkeypatch):
    right = block.combine
    monkeypatch.setattr(block, "combine", lambda rows, weights, dispatch: right(rows, weights.at[5].mul(1.1), dispatch))


def relu_for_silu(monkeypatch):
    monkeypatch.setattr(experts, "swiglu", lambda gate, up: jax.nn.relu(gate) * up)


def swapped_experts(monkeypatch):
    right = block.sort_by_expert

    def swapped(ids, experts):
        return right(jnp.where(ids == 0, 1, jnp.where(ids == 1, 0, ids)), experts)

    monkeypatch.setattr(block, "sort_by_expert", swapped)


def zeroed_gradient_of_an_expert(monkeypatch):
    faulty = BLOCKED._replace(outer=lambda a, b, sizes: BLOCKED.outer(a, b, sizes).at[2].set(0))
    monkeypatch.setitem(block.BACKENDS, "blocked", faulty)


def gradient_scaled_a_little(monkeypatch):
    faulty = BLOCKED._replace(outer=lambda a, b, sizes: BLOCKED.outer(a, b, sizes) * 1.1)
    monkeypatch.setitem(block.BACKENDS, "blocked", faulty)


def one_bad_row(monkeypatch):
    """The last row of the last group is off: what a kernel does that forgets a group's remainder."""
    faulty = BLOCKED._replace(
        rows=lambda a, b, sizes, transposed: BLOCKED.rows(a, b, sizes, transposed).at[-1].mul(0.5)
    )
    monkeypatch.setitem(block.BACKENDS, "blocked", faulty)


def one_value_not_finite(monkeypatch):
    right = block.combine
    monkeypatch.setattr(block, "combine", lambda *stage: right(*stage).at[50, 3].set(jnp.nan))


FAULTS = [
    wrong_combine_weight,
    relu_for_silu,
    swapped_experts,
    one_bad_row,
    one_value_not_finite,
]
BACKWARD_FAULTS = [zeroed_gradient_of_an_expert, gradient_scaled_a_little]


@pytest.mark.parametrize("fault", FAULTS)
def test_check_fault_in_forward_is_refused(monkeypatch, fault):
    fault(monkeypatch)
    assert checked(job(bench_pass="forward", dtype="bfloat16")).refusal


@pytest.mark.parametrize("fault", FAULTS + BACKWARD_FAULTS)
def test_check_fault_in_either_direction_is_refused(monkeypatch, fault):
    fault(monkeypatch)
    assert checked(job()).refusal


@pytest.mark.usefixtures("on_subset")
@pytest.mark.parametrize("fault", [relu_for_silu, one_bad_row, one_value_not_finite, *BACKWARD_FAULTS])
def test_check_fault_with_few_rows_compared_is_refused(monkeypatch, fault):
    fault(monkeypatch)
    assert checked(job(dtype="bfloat16")).refusal


def test_check_gradient_of_an_expert_without_rows_is_refused(monkeypatch):
    chosen = job(tokens=3, experts=8, topk=1)
    assert checked(chosen).refusal is None
    faulty = BLOCKED._replace(outer=lambda a, b, sizes: BLOCKED.outer(a, b, sizes) + 1e-9)
    monkeypatch.setitem(block.BACKENDS, "blocked", faulty)
    assert "is not zero, which kept 0 assignments" in checked(chosen).refusal


def test_check_wrong_loss_is_refused():
    chosen = job()
    drawn = draw(chosen)
    placed = place(drawn)
    returned = jax.jit(step(chosen))(*placed)
    refusal = checking.check(chosen, drawn, placed, returned | {"loss": returned["loss"] * 1.001}).refusal
    assert refusal.startswith("loss is off by 1.0e-03")


def test_relative_errors_one_bad_row_shows_in_the_worst_and_not_in_the_whole():
    expected = np.ones((10_000, 4), np.float32)
    found = expected.copy()
    found[77] *= 1.01
    errors = checking.relative_errors(found, expected)
    assert errors.whole == pytest.approx(1e-4, rel=1e-3)
    assert errors.worst == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.usefixtures("on_subset")
def test_check_value_not_finite_outside_the_subset_is_refused():
    chosen = job(bench_pass="forward", experts=24, topk=1)
    drawn = draw(chosen)
    placed = place(drawn)
    compared = closed_subset(drawn.ids, chosen.experts, stream(chosen, "check"), whole=False).tokens
    elsewhere = np.setdiff1d(np.arange(chosen.tokens), compared)[0]
    y = jax.jit(step(chosen))(*placed)["y"].at[elsewhere, 3].set(jnp.inf)
    assert checking.check(chosen, drawn, placed, {"y": y}).refusal == "y holds values that are not finite"
