"""The contract of the block: every combination of axes against a dense float64 block that shares no line with it."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import MoeBlockJob
from tests.workers.moe.covering import pairs_covered
from tests.workers.moe.dense import dense, relative_error
from workers.bench.inputs import Inputs, draw
from workers.bench.placement import place
from workers.moe import buffer, step
from workers.moe.buffer import buffer_rows
from workers.moe.grouped.matmul import Backend
from workers.moe.layout import Layout
from workers.moe.routing import Routing, kept

TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2}
# of the plain block, not of one that rounds alike
INT8_TOLERANCE = 5e-2


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """So that a realised buffer is smaller than the worst at these sizes."""
    monkeypatch.setattr(buffer, "ROW_STEP", 8)


SHAPE = {"tokens": 36, "hidden": 24, "mlp_dim": 20, "experts": 8, "topk": 2, "dtype": "float32"}
AXES: dict[str, list[Any]] = {
    "shared_expert_dim": [12, 0],
    "bench_pass": ["forward_backward", "forward"],
    "parallel_mode": ["none", "ep_dense", "ep", "ep_ring", "ep_a2a"],
    "backend": ["blocked", "ragged_dot"],
    "quant_mode": ["none", "int8_qdq", "int8", "int8_routed", "int8_all", "int8_routed_prequant"],
    "shared_fused": [False, True],
    "routing": ["topk_softmax", "softmax_topk"],
    "renormalize_topk": [False, True],
    "null_route_frac": [0.0, 0.4],
    "null_routing_mode": ["independent", "take_until_null"],
    "impl": ["baseline", "fused_w13", "preweight", "fused_w13_preweight", "scatter", "fast"],
    "w13_param": ["stored", "concat"],
    "capacity_policy": ["none", "drop", "pad"],
    "routing_pack_strategy": ["argsort", "tuple_sort"],
    "permute_vjp": ["custom", "autodiff"],
    "matmul_vjp": ["custom", "autodiff"],
    "remat_mode": ["none", "expert_mlp", "combine"],
    "buffer_rows": ["realised", "worst"],
    "distribution": ["random", "runs"],
    "dtype": ["float32", "bfloat16"],
}
EXPERT_PARALLEL = ["ep_dense", "ep", "ep_ring", "ep_a2a"]


def job(**fields: Any) -> MoeBlockJob:
    capacity = {"capacity_factor": 0.8} if fields.get("capacity_policy", "none") != "none" else {}
    return MoeBlockJob(**{**SHAPE, "backend": "blocked", "bench_pass": "forward_backward", **capacity, **fields})


def valid(fields: dict[str, Any]) -> bool:
    return job(**fields).refusal() is None


def compiled(chosen: MoeBlockJob, inputs: Inputs):
    layout = Layout.of(chosen, jax.devices())
    program = step.program(layout, buffer_rows(chosen, inputs.routing.ids, len(layout.devices)))
    run = jax.jit(program.step)
    ahead = program.pack_ahead if program.ahead else lambda placed: placed
    return lambda arguments: run(ahead(place(arguments, layout)))


def returned(chosen: MoeBlockJob, inputs: Inputs) -> dict[str, jax.Array]:
    return compiled(chosen, inputs)(inputs.arguments)


def rerouted(inputs: Inputs, ids: np.ndarray) -> Inputs:
    """The same arrays with other experts, each of a token's two with a weight that is not zero."""
    routing = Routing(ids.astype(np.int32), np.tile(np.array([0.75, 0.25], np.float32), (len(ids), 1)))
    given = {"ids": routing.ids, "router_weights": routing.weights}
    return inputs._replace(routing=routing, arguments=inputs.arguments | given)


def assert_equal_to_dense(
    found: dict[str, jax.Array], chosen: MoeBlockJob, inputs: Inputs, capacity: int | None = None
) -> None:
    keep = kept(inputs.routing.ids, chosen.experts, chosen.capacity if capacity is None else capacity)
    expected = dense(inputs, keep)
    exact = chosen.canonicalised().quant_mode == "none"
    outputs = {"y"} if chosen.bench_pass == "forward" else {"loss", "dx", *(f"d{name}" for name in stored(chosen))}
    assert set(found) == outputs
    for name, array in found.items():
        error = relative_error(np.asarray(array, np.float64), expected[name])
        assert error < (TOLERANCE[chosen.dtype] if exact else INT8_TOLERANCE), name
        if name != "loss":
            assert array.dtype == jnp.dtype(chosen.dtype), name
        if name.startswith("dw"):
            touched = np.asarray(array != 0).any(axis=(1, 2))
            assert list(np.flatnonzero(touched)) == sorted(set(inputs.routing.ids[keep]))


def stored(chosen: MoeBlockJob) -> set[str]:
    joined = chosen.impl in ("fused_w13", "fused_w13_preweight", "fast") and chosen.w13_param == "stored"
    shared = {"shared_w13", "shared_w2"} if chosen.shared_fused else {"shared_w1", "shared_w3", "shared_w2"}
    return ({"w13", "w2"} if joined else {"w1", "w3", "w2"}) | (shared if chosen.shared_expert_dim else set())


CASES, NEVER_TOGETHER = pairs_covered(AXES, valid)


def test_axes_that_never_meet_are_those_that_are_refused():
    assert {frozenset({("shared_expert_dim", 0), ("quant_mode", "int8_all")})} == NEVER_TOGETHER


@pytest.mark.parametrize("fields", CASES, ids=lambda fields: "-".join(map(str, fields.values())))
def test_block_any_two_values_together_equal_dense(fields):
    chosen = job(**fields)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


GMM = [
    {"impl": "fused_w13", "parallel_mode": "ep", "null_route_frac": 0.4},
    {"impl": "preweight", "capacity_policy": "pad", "dtype": "bfloat16"},
    {"impl": "fast", "capacity_policy": "drop", "parallel_mode": "ep_a2a", "remat_mode": "expert_mlp"},
]


@pytest.mark.parametrize("fields", GMM, ids=lambda fields: "-".join(map(str, fields.values())))
def test_block_interpreted_kernel_equals_dense(fields):
    chosen = job(backend="gmm", **fields)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


@pytest.mark.parametrize("parallel_mode", ["ref_dp", "staged_dp"])
@pytest.mark.parametrize("fields", [{}, {"null_route_frac": 0.4, "renormalize_topk": True, "shared_expert_dim": 12}])
def test_block_of_the_profile_harness_equals_dense(parallel_mode, fields):
    chosen = job(parallel_mode=parallel_mode, routing="softmax_topk", bench_pass="forward", **fields)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


@pytest.mark.parametrize(
    "fields", [{"impl": "preweight"}, {"impl": "fast", "capacity_policy": "pad"}, {"quant_mode": "int8_all"}]
)
def test_block_packed_before_the_step_equals_dense(fields):
    chosen = job(queue_mode="prequeue", bench_pass="forward", shared_expert_dim=12, **fields)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


def routings(tokens: int, experts: int) -> dict[str, np.ndarray]:
    """ids [tokens, 2] with the shapes of load that go wrong."""
    rng, token = np.random.default_rng(1), np.arange(tokens)
    return {
        "drawn": rng.permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1)[:, :2],
        "one_takes_every_token_and_others_are_empty": np.stack([np.full(tokens, 3), token % 2], axis=1),
        "only_the_last_two": np.stack([np.full(tokens, experts - 1), np.full(tokens, experts - 2)], axis=1),
        "one_row_alone": np.stack([np.where(token == 5, 0, 1), np.full(tokens, 2)], axis=1),
        "all_of_one_device_and_no_other": np.stack([token % 2, 1 - token % 2], axis=1),
        "null_in_every_second_token": np.where(token[:, None] % 2, experts, [4, 7]),
        "all_null": np.full((tokens, 2), experts),
    }


@pytest.mark.parametrize("parallel_mode", ["none", *EXPERT_PARALLEL])
@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
def test_block_any_load_equals_dense(backend, parallel_mode):
    # a fraction of nulls, so that the program is made for nulls; which ones there are is given
    chosen = job(backend=backend, parallel_mode=parallel_mode, null_route_frac=0.5, buffer_rows="worst")
    drawn = draw(chosen)
    run = compiled(chosen, drawn)
    for ids in routings(chosen.tokens, chosen.experts).values():
        inputs = rerouted(drawn, ids)
        assert_equal_to_dense(run(inputs.arguments), chosen, inputs)


def poisoned(backend: Backend) -> Backend:
    """A backend that leaves NaN in the rows that belong to no group, as an uninitialised buffer may."""

    def rows(a: jax.Array, b: jax.Array, group_sizes: jax.Array, transposed: bool) -> jax.Array:
        product = backend.rows(a, b, group_sizes, transposed)
        inside = jnp.arange(len(a)) < group_sizes.sum()
        return jnp.where(inside[:, None], product, jnp.nan)

    return backend._replace(rows=rows)


@pytest.mark.parametrize("permute_vjp", ["custom", "autodiff"])
@pytest.mark.parametrize(
    ("parallel_mode", "impl"),
    [("none", "baseline"), ("ep", "preweight"), ("ep_ring", "fast"), ("ep_a2a", "preweight"), ("ep_dense", "scatter")],
)
def test_block_rows_of_no_group_hold_nan_and_nothing_else_does(monkeypatch, parallel_mode, impl, permute_vjp):
    right = step.backend_of
    monkeypatch.setattr(step, "backend_of", lambda *of: poisoned(right(*of)))
    nulls = {"null_route_frac": 0.4, "buffer_rows": "worst"}
    chosen = job(parallel_mode=parallel_mode, impl=impl, permute_vjp=permute_vjp, **nulls)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


@pytest.mark.parametrize("parallel_mode", ["none", "ep", "ep_a2a"])
def test_block_capacity_that_keeps_nothing_gives_zeros(monkeypatch, parallel_mode):
    monkeypatch.setattr(MoeBlockJob, "capacity", 0)
    chosen = job(parallel_mode=parallel_mode, capacity_policy="drop")
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs, capacity=0)


@pytest.mark.parametrize("parallel_mode", EXPERT_PARALLEL)
def test_block_on_one_device_and_on_several_is_the_same(parallel_mode):
    alone, spread = job(shared_expert_dim=12), job(shared_expert_dim=12, parallel_mode=parallel_mode)
    inputs = draw(alone)
    expected, found = returned(alone, inputs), returned(spread, inputs)
    for name, array in expected.items():
        assert relative_error(np.asarray(found[name], np.float64), np.asarray(array, np.float64)) < 1e-6, name
        assert len(found[name].sharding.device_set) == len(jax.devices()) == 4


@settings(max_examples=10, deadline=None)
@given(
    parallel_mode=st.sampled_from(["none", "ep", "ep_a2a"]),
    backend=st.sampled_from(["blocked", "ragged_dot"]),
    tokens=st.integers(1, 18).map(lambda quarter: 4 * quarter),
    hidden=st.integers(4, 20),
    mlp_dim=st.integers(4, 20),
    choice=st.integers(1, 3).flatmap(lambda quarter: st.tuples(st.just(4 * quarter), st.integers(1, 4 * quarter))),
    null_route_frac=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
def test_block_any_shape_equals_dense(choice, **fields):
    experts, topk = choice
    chosen = job(experts=experts, topk=topk, **fields)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
@pytest.mark.parametrize("tokens", [1, 65])
def test_block_every_expert_chosen_equals_dense(backend, tokens):
    chosen = job(backend=backend, experts=4, topk=4, tokens=tokens)
    inputs = draw(chosen)
    assert_equal_to_dense(returned(chosen, inputs), chosen, inputs)


@pytest.mark.parametrize("impl", ["baseline", "preweight", "scatter"])
def test_block_router_weights_can_be_differentiated(impl):
    chosen = job(impl=impl, bench_pass="forward")
    arguments = jax.tree.map(jnp.asarray, draw(chosen).arguments)
    run = step.program(Layout.of(chosen, jax.devices()), chosen.tokens * chosen.topk).step

    @jax.jit
    def loss(router_weights):
        return jnp.sum(run(arguments | {"router_weights": router_weights})["y"] ** 2)

    weights = arguments["router_weights"]
    found = jax.grad(loss)(weights)
    for token, choice in itertools.product((0, 35), (0, 1)):
        nudge = np.zeros_like(weights)
        nudge[token, choice] = 0.05
        slope = (loss(weights + nudge) - loss(weights - nudge)) / 0.1
        assert float(found[token, choice]) == pytest.approx(float(slope), rel=2e-2, abs=1e-2)
