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
    assert digits(inputs.arguments["x"]) == "653433707dad5017"
    assert digits(inputs.arguments["ids"], inputs.arguments["router_weights"]) == "0e7bb57a22123085"
    assert digits(inputs.weights["w1"], inputs.weights["w3"], inputs.weights["w2"]) == "edf665d88d086cbe"


@pytest.mark.parametrize(
    "arm",
    [
        {"backend": "ragged_dot"},
        {"impl": "fused_w13", "w13_param": "concat"},
        {"bench_pass": "forward_backward"},
        {"parallel_mode": "ep"},
        {"quant_mode": "int8_routed_prequant"},
        {"capacity_policy": "drop", "capacity_factor": 0.5},
        {"run_alpha": 0.5},
        {"env": {"A": "b"}},
    ],
)
def test_draw_another_arm_gets_the_same_arrays_and_digest(arm):
    first, other = draw(job()), draw(job(**arm))
    assert digest(job()) == digest(job(**arm))
    for drawn in ("x", "ids", "router_weights"):
        assert digits(first.arguments[drawn]) == digits(other.arguments[drawn])
    assert {name: digits(array) for name, array in first.weights.items()} == {
        name: digits(array) for name, array in other.weights.items()
    }


def test_draw_stored_w13_is_w1_beside_w3():
    apart, joined = draw(job()).weights, draw(job(impl="fused_w13")).arguments["weights"]
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
        {"shared_expert_dim": 8},
        {"distribution": "runs"},
        {"distribution": "runs", "run_alpha": 0.5},
        {"routing": "softmax_topk"},
        {"null_route_frac": 0.5},
    ],
)
def test_digest_field_that_makes_the_arrays_changes_it(change):
    assert digest(job()) != digest(job(**change))


def test_draw_bfloat16_is_float32_rounded_once():
    exact, rounded = draw(job()), draw(job(dtype="bfloat16"))
    np.testing.assert_array_equal(exact.weights["w2"].astype(jnp.bfloat16), rounded.weights["w2"])
    arguments = rounded.arguments
    floats = (arguments["x"], arguments["router_weights"], *arguments["weights"].values())
    assert {array.dtype for array in floats} == {jnp.dtype("bfloat16")}
    assert arguments["ids"].dtype == np.int32


@pytest.mark.parametrize(("init", "w1", "w2"), [("fan_in", 32**-0.5, 16**-0.5), ("unit", 1.0, 1.0)])
def test_draw_init_gives_its_variances(init, w1, w2):
    inputs = draw(job(init=init))
    assert inputs.weights["w1"].std() == pytest.approx(w1, rel=0.05)
    assert inputs.weights["w3"].std() == pytest.approx(w1, rel=0.05)
    assert inputs.weights["w2"].std() == pytest.approx(w2, rel=0.05)
    assert inputs.arguments["x"].std() == pytest.approx(1, rel=0.05)
    assert abs(np.corrcoef(inputs.weights["w1"].ravel(), inputs.weights["w3"].ravel())[0, 1]) < 0.05


def test_draw_growing_null_fraction_keeps_what_was_null_and_the_other_arrays():
    few, many = (draw(job(null_route_frac=fraction)) for fraction in (0.25, 0.5))
    null_of_few, null_of_many = (inputs.arguments["ids"] == 4 for inputs in (few, many))
    assert 0 < null_of_few.sum() < null_of_many.sum()
    assert not (null_of_few & ~null_of_many).any()
    assert digits(few.arguments["x"]) == digits(many.arguments["x"])


def test_draw_step_that_routes_gets_logits_and_the_routing_it_will_choose():
    inputs = draw(job(routing="softmax_topk", dtype="bfloat16", null_route_frac=0.5))
    assert set(inputs.arguments) == {"x", "logits", "null", "weights"}
    best = np.argsort(-inputs.arguments["logits"].astype(np.float32), axis=1, kind="stable")[:, :2]
    real = ~inputs.arguments["null"]
    np.testing.assert_array_equal(inputs.routing.ids[real], best[real])
    assert (inputs.routing.ids[~real] == 4).all()


def test_draw_prequantised_weights_are_int8_with_a_scale_a_matrix():
    inputs = draw(job(quant_mode="int8_routed_prequant", impl="fused_w13", shared_expert_dim=8))
    stored = inputs.arguments["weights"]["w13"]
    assert (stored.values.dtype, stored.values.shape, stored.scale.shape) == (np.int8, (4, 32, 32), (4,))
    exact = np.concatenate([inputs.weights["w1"], inputs.weights["w3"]], axis=2)
    assert np.abs(stored.values * stored.scale[:, None, None] - exact).max() <= stored.scale.max() / 2 * 1.001
    assert inputs.arguments["weights"]["shared_w1"].dtype == np.float32
