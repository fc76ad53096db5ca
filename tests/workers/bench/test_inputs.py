import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench.inputs import digest, draw


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 64, "hidden": 32, "mlp_dim": 16, "experts": 4, "topk": 2, "dtype": "float32"}
    return MoeBlockJob(**{**small, "backend": "blocked", **fields})


def digits(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def test_draw_same_job_gives_the_arrays_it_always_gave():
    inputs = draw(job(seed=7))
    assert digits(inputs.x) == "653433707dad5017"
    assert digits(inputs.ids, inputs.router_weights) == "0e7bb57a22123085"
    assert digits(inputs.weights["w1"], inputs.weights["w3"], inputs.weights["w2"]) == "edf665d88d086cbe"


@pytest.mark.parametrize(
    "arm",
    [
        {"backend": "ragged_dot"},
        {"impl": "fused_w13", "w13_param": "concat"},
        {"bench_pass": "forward_backward"},
        {"env": {"A": "b"}},
    ],
)
def test_draw_another_arm_gets_the_same_arrays_and_digest(arm):
    first, other = draw(job()), draw(job(**arm))
    assert digest(job()) == digest(job(**arm))
    assert digits(first.x, first.ids, first.router_weights) == digits(other.x, other.ids, other.router_weights)
    assert {name: digits(array) for name, array in first.weights.items()} == {
        name: digits(array) for name, array in other.weights.items()
    }


def test_draw_stored_w13_is_w1_beside_w3():
    apart, joined = draw(job()).weights, draw(job(impl="fused_w13")).weights
    assert set(joined) == {"w13", "w2"}
    np.testing.assert_array_equal(joined["w13"], np.concatenate([apart["w1"], apart["w3"]], axis=2))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 65},
        {"hidden": 33},
        {"mlp_dim": 17},
        {"experts": 5},
        {"topk": 1},
        {"dtype": "bfloat16"},
        {"init": "unit"},
        {"seed": 1},
    ],
)
def test_digest_field_that_makes_the_arrays_changes_it(change):
    assert digest(job()) != digest(job(**change))


def test_draw_bfloat16_is_float32_rounded_once():
    exact, rounded = draw(job()), draw(job(dtype="bfloat16"))
    np.testing.assert_array_equal(exact.weights["w2"].astype(jnp.bfloat16), rounded.weights["w2"])
    floats = (rounded.x, rounded.router_weights, *rounded.weights.values())
    assert {array.dtype for array in floats} == {jnp.dtype("bfloat16")}
    assert rounded.ids.dtype == np.int32


@pytest.mark.parametrize(("init", "w1", "w2"), [("fan_in", 32**-0.5, 16**-0.5), ("unit", 1.0, 1.0)])
def test_draw_init_gives_its_variances(init, w1, w2):
    inputs = draw(job(init=init))
    assert inputs.weights["w1"].std() == pytest.approx(w1, rel=0.05)
    assert inputs.weights["w3"].std() == pytest.approx(w1, rel=0.05)
    assert inputs.weights["w2"].std() == pytest.approx(w2, rel=0.05)
    assert inputs.x.std() == pytest.approx(1, rel=0.05)
    assert abs(np.corrcoef(inputs.weights["w1"].ravel(), inputs.weights["w3"].ravel())[0, 1]) < 0.05
