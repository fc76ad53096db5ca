"""The contract of the block: every composition against a dense float64 block that shares no line with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import MoeBlockJob
from workers.bench.inputs import Inputs, draw
from workers.moe.block import composition, moe_block
from workers.moe.step import step

TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2}
IMPLS = [("baseline", "stored"), ("fused_w13", "stored"), ("fused_w13", "concat")]


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 37, "hidden": 24, "mlp_dim": 20, "experts": 5, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(**{**small, "backend": "blocked", "bench_pass": "forward_backward", **fields})


def dense(inputs: Inputs) -> dict[str, np.ndarray]:
    """Loss, y and every gradient of mean(y^2): every expert on every token, in float64, derivatives by hand."""
    weights = {name: np.asarray(array, np.float64) for name, array in inputs.weights.items()}
    if "w13" in weights:
        weights["w1"], weights["w3"] = np.split(weights.pop("w13"), 2, axis=2)
    w1, w3, w2 = weights["w1"], weights["w3"], weights["w2"]
    x = np.asarray(inputs.x, np.float64)
    gates = np.zeros((len(x), len(w1)))
    np.put_along_axis(gates, np.asarray(inputs.ids), np.asarray(inputs.router_weights, np.float64), axis=1)

    g, u = np.einsum("th,ehm->tem", x, w1), np.einsum("th,ehm->tem", x, w3)
    s = 1 / (1 + np.exp(-g))
    a = g * s * u
    y = np.einsum("te,tem,emh->th", gates, a, w2)
    dy = 2 * y / y.size
    da = np.einsum("te,th,emh->tem", gates, dy, w2)
    dg, du = da * u * s * (1 + g * (1 - s)), da * g * s
    dw1, dw3 = np.einsum("th,tem->ehm", x, dg), np.einsum("th,tem->ehm", x, du)
    return {
        "y": y,
        "loss": np.mean(y**2),
        "dx": np.einsum("tem,ehm->th", dg, w1) + np.einsum("tem,ehm->th", du, w3),
        "dw1": dw1,
        "dw3": dw3,
        "dw13": np.concatenate([dw1, dw3], axis=2),
        "dw2": np.einsum("te,tem,th->emh", gates, a, dy),
    }


def routings(tokens: int, experts: int) -> dict[str, np.ndarray]:
    """ids [tokens, 2] with the shapes of load that go wrong."""
    rng = np.random.default_rng(1)
    token = np.arange(tokens)
    return {
        "drawn": rng.permuted(np.tile(np.arange(experts), (tokens, 1)), axis=1)[:, :2],
        "one_takes_every_token_and_two_are_empty": np.stack([np.full(tokens, 3), token % 2], axis=1),
        "only_the_last_two": np.stack([np.full(tokens, experts - 1), np.full(tokens, experts - 2)], axis=1),
        "one_row_alone": np.stack([np.where(token == 5, 0, 1), np.full(tokens, 2)], axis=1),
    }


def assert_equal_to_dense(returned: dict[str, jax.Array], inputs: Inputs, dtype: str) -> None:
    expected = dense(inputs)
    for name, found in returned.items():
        off = np.linalg.norm(np.asarray(found, np.float64) - expected[name]) / np.linalg.norm(expected[name])
        assert off < TOLERANCE[dtype], name


@pytest.mark.parametrize("bench_pass", ["forward", "forward_backward"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("impl", "w13_param"), IMPLS)
@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
def test_block_any_composition_equals_dense(backend, impl, w13_param, dtype, bench_pass):
    chosen = job(backend=backend, impl=impl, w13_param=w13_param, dtype=dtype, bench_pass=bench_pass)
    run, drawn = jax.jit(step(chosen)), draw(chosen)
    outputs = {"y"} if bench_pass == "forward" else {"loss", "dx", *(f"d{name}" for name in drawn.weights)}
    for ids in routings(chosen.tokens, chosen.experts).values():
        inputs = drawn._replace(ids=ids.astype(np.int32))
        returned = run(*inputs)
        assert set(returned) == outputs
        assert_equal_to_dense(returned, inputs, dtype)
        for name in outputs - {"loss"}:
            assert returned[name].dtype == jnp.dtype(dtype)
        for name in outputs - {"loss", "dx", "y"}:
            touched = np.asarray(returned[name] != 0).any(axis=(1, 2))
            assert list(np.flatnonzero(touched)) == sorted(set(ids.reshape(-1)))


@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
@settings(max_examples=5, deadline=None)
@given(
    tokens=st.integers(1, 70),
    hidden=st.integers(4, 20),
    mlp_dim=st.integers(4, 20),
    choice=st.integers(1, 9).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    seed=st.integers(0, 2**63 - 1),
)
def test_block_any_shape_equals_dense(backend, tokens, hidden, mlp_dim, choice, seed):
    experts, topk = choice
    chosen = job(backend=backend, tokens=tokens, hidden=hidden, mlp_dim=mlp_dim, experts=experts, topk=topk, seed=seed)
    inputs = draw(chosen)
    assert_equal_to_dense(jax.jit(step(chosen))(*inputs), inputs, "float32")


@pytest.mark.parametrize("backend", ["ragged_dot", "blocked"])
def test_block_every_expert_chosen_equals_dense(backend):
    chosen = job(backend=backend, experts=4, topk=4, tokens=65)
    inputs = draw(chosen)
    assert_equal_to_dense(jax.jit(step(chosen))(*inputs), inputs, "float32")


def test_block_router_weights_can_be_differentiated():
    chosen = job()
    inputs = jax.tree.map(jnp.asarray, draw(chosen))

    @jax.jit
    def loss(router_weights):
        return jnp.sum(moe_block(composition(chosen), inputs.x, inputs.ids, router_weights, inputs.weights) ** 2)

    found = jax.grad(loss)(inputs.router_weights)
    for token, choice in itertools.product((0, 36), (0, 1)):
        nudge = np.zeros_like(inputs.router_weights)
        nudge[token, choice] = 0.05
        slope = (loss(inputs.router_weights + nudge) - loss(inputs.router_weights - nudge)) / 0.1
        assert float(found[token, choice]) == pytest.approx(float(slope), rel=2e-2, abs=1e-2)
