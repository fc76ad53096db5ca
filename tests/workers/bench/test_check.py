"""The check lets right code through and refuses faults put into the real composition."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench import check as checking
from workers.bench.bench import Checked
from workers.bench.inputs import Inputs, draw, stream
from workers.bench.placement import place
from workers.bench.subset import closed_subset
from workers.moe import experts, stages, step
from workers.moe.buffer import buffer_rows
from workers.moe.grouped.matmul import Backend
from workers.moe.layout import Layout


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 96, "hidden": 32, "mlp_dim": 24, "experts": 6, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(
        **{**small, "backend": "blocked", "impl": "fused_w13", "bench_pass": "forward_backward", **fields}
    )


def returned(chosen: MoeBlockJob, inputs: Inputs) -> dict[str, jax.Array]:
    layout = Layout.of(chosen, jax.devices())
    run = step.program(layout, buffer_rows(chosen, inputs.routing.ids, len(layout.devices)))
    return jax.jit(run.step)(place(inputs.arguments, layout))


def checked(chosen: MoeBlockJob) -> Checked:
    inputs = draw(chosen)
    return checking.check(chosen, inputs, returned(chosen, inputs))


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
    right = stages.combine
    monkeypatch.setattr(stages, "combine", lambda rows, weights, *of: right(rows, weights.at[5].mul(1.1), *of))


def relu_for_silu(monkeypatch):
    monkeypatch.setattr(experts, "swiglu", lambda gate, up, _: jax.nn.relu(gate) * up)


def swapped_experts(monkeypatch):
    right = stages.dispatch

    def swapped(ids, packing):
        return right(jnp.where(ids == 0, 1, jnp.where(ids == 1, 0, ids)), packing)

    monkeypatch.setattr(stages, "dispatch", swapped)


def faulty_backend(monkeypatch, fault: Callable[[Backend], Backend]) -> None:
    right = step.backend_of
    monkeypatch.setattr(step, "backend_of", lambda *of: fault(right(*of)))


def zeroed_gradient_of_an_expert(monkeypatch):
    faulty_backend(monkeypatch, lambda of: of._replace(outer=lambda a, b, sizes: of.outer(a, b, sizes).at[2].set(0)))


def gradient_scaled_a_little(monkeypatch):
    faulty_backend(monkeypatch, lambda of: of._replace(outer=lambda a, b, sizes: of.outer(a, b, sizes) * 1.1))


def one_bad_row(monkeypatch):
    """The last row of the last group is off: what a kernel does that forgets a group's remainder."""
    faulty_backend(
        monkeypatch,
        lambda of: of._replace(rows=lambda a, b, sizes, transposed: of.rows(a, b, sizes, transposed).at[-1].mul(0.5)),
    )


def one_value_not_finite(monkeypatch):
    right = stages.combine
    monkeypatch.setattr(stages, "combine", lambda *stage: right(*stage).at[50, 3].set(jnp.nan))


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
    faulty_backend(monkeypatch, lambda of: of._replace(outer=lambda a, b, sizes: of.outer(a, b, sizes) + 1e-9))
    assert "is not zero, which kept 0 assignments" in checked(chosen).refusal


def test_check_wrong_loss_is_refused():
    chosen = job()
    inputs = draw(chosen)
    found = returned(chosen, inputs)
    refusal = checking.check(chosen, inputs, found | {"loss": found["loss"] * 1.001}).refusal
    assert refusal.startswith("loss is off by 1.0e-03")


def test_check_missing_gradient_is_refused():
    chosen = job()
    inputs = draw(chosen)
    found = returned(chosen, inputs)
    del found["dw13"]
    assert checking.check(chosen, inputs, found).refusal == "dw1 is missing; dw3 is missing"


@pytest.mark.parametrize("parallel_mode", ["ep", "ep_ring"])
def test_check_dispatch_outside_of_what_is_differentiated_is_refused(monkeypatch, parallel_mode):
    """A compact buffer that is built before the gradient is taken: x gets none."""
    right = stages.pack_rows
    monkeypatch.setattr(stages, "pack_rows", lambda *of: jax.lax.stop_gradient(right(*of)))
    assert "dx is off by 1.0e+00" in checked(job(parallel_mode=parallel_mode, experts=8)).refusal


def test_check_padding_rows_counted_into_the_first_group_are_refused(monkeypatch):
    """The padding of a compact buffer lies at its end: a first group enlarged by it takes rows of all the others."""
    right = stages.dispatch

    def padded(ids, packing):
        found = right(ids, packing)
        sizes = found.group_sizes
        return found._replace(group_sizes=sizes.at[0].add(packing.rows - sizes.sum()))

    chosen = job(parallel_mode="ep", experts=8, bench_pass="forward", buffer_rows="worst")
    assert checked(chosen).refusal is None
    monkeypatch.setattr(stages, "dispatch", padded)
    found = checked(chosen)
    assert found.refusal
    assert next(measure.value for measure in found.measures if measure.name == "rel_error") > 0.5


INT8 = ["int8_qdq", "int8", "int8_routed", "int8_all", "int8_routed_prequant"]


@pytest.mark.parametrize("quant_mode", INT8)
def test_check_int8_passes_and_says_what_rounding_costs(quant_mode):
    found = checked(job(quant_mode=quant_mode, shared_expert_dim=16))
    assert found.refusal is None
    lost = {measure.scope: measure.value for measure in found.measures if measure.name == "quant_error"}
    off = {measure.scope: measure.value for measure in found.measures if measure.name == "rel_error"}
    assert lost.keys() | {"loss"} == off.keys()
    assert 2e-3 < max(lost.values()) < 5e-2
    assert max(off.values()) < 5e-3


@pytest.mark.parametrize("quant_mode", INT8)
def test_check_naive_derivative_of_int8_is_refused(quant_mode):
    found = checked(job(quant_mode=quant_mode, shared_expert_dim=16, quant_vjp="autodiff"))
    assert found.refusal
    assert next(measure.value for measure in found.measures if measure.scope == "dx") > 0.2


@pytest.mark.parametrize(
    "fields", [{"null_route_frac": 1.0}, {"null_route_frac": 1.0, "shared_expert_dim": 16}, {"null_route_frac": 0.5}]
)
@pytest.mark.parametrize("extent", ["whole", "subset"])
def test_check_nulls_pass(request, extent, fields):
    if extent == "subset":
        request.getfixturevalue("on_subset")
    assert checked(job(**fields)).refusal is None


@pytest.mark.usefixtures("on_subset")
@pytest.mark.parametrize("capacity_policy", ["drop", "pad"])
def test_check_dropped_assignments_pass(capacity_policy):
    assert checked(job(capacity_policy=capacity_policy, capacity_factor=0.7, experts=24, topk=3)).refusal is None


def test_relative_errors_one_bad_row_shows_in_the_worst_and_not_in_the_whole():
    expected = np.ones((10_000, 4), np.float32)
    found = expected.copy()
    found[77] *= 1.01
    errors = checking.relative_errors(found, expected, floor=0.25)
    assert errors.whole == pytest.approx(1e-4, rel=1e-3)
    assert errors.worst == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.usefixtures("on_subset")
def test_check_value_not_finite_outside_the_subset_is_refused():
    chosen = job(bench_pass="forward", experts=24, topk=1)
    inputs = draw(chosen)
    compared = closed_subset(inputs.routing.ids, chosen.experts, stream(chosen, "check"), whole=False).tokens
    elsewhere = np.setdiff1d(np.arange(chosen.tokens), compared)[0]
    y = returned(chosen, inputs)["y"].at[elsewhere, 3].set(jnp.inf)
    assert checking.check(chosen, inputs, {"y": y}).refusal == "y holds values that are not finite"
