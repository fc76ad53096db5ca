"""What a micro-benchmark is timed with: the same on every machine, known by its digest."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from core.job import parse_job
from workers.micro.arguments import ARGUMENTS, digest, draw
from workers.micro.kinds import definition

LAYER = {"kind": "moe_layer", "tokens": 32, "hidden": 16, "experts": 4, "topk": 2, "dtype": "float32", "expand": 2}
ROUTING = {"kind": "routing", "tokens": 32, "hidden": 16, "experts": 4, "topk": 2, "dtype": "float32"}
TOPK = {"kind": "topk", "tokens": 32, "experts": 4, "topk": 2, "dtype": "float32"}
COMBINE = {"kind": "combine_only", "tokens": 32, "hidden": 16, "experts": 4, "topk": 2, "dtype": "float32"}


def digest_of(fields, **change) -> str:
    job = parse_job({**fields, **change})
    return digest(job, definition(job).arguments)


def digits(*arrays) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def test_draw_same_job_gives_the_arrays_it_always_gave():
    state = draw(parse_job(LAYER), ("x", "ids", "gates", "weights", "logits", "packed"))
    assert digits(state["x"]) == "2fe272c49a34ff02"
    assert digits(state["ids"], state["gates"]) == "c607820291f7daae"
    assert digits(state["weights"]["w1"], state["weights"]["w2"]) == "da2cae9fc569dcc2"
    assert digits(state["logits"], state["packed"]) == "9116dde56f6af835"


def test_draw_of_16_bits_is_float32_rounded_once_and_routed_alike():
    exact, rounded = (draw(parse_job({**LAYER, "dtype": dtype}), ARGUMENTS) for dtype in ("float32", "float16"))
    np.testing.assert_array_equal(exact["x"].astype(jnp.float16), rounded["x"])
    np.testing.assert_array_equal(exact["weights"]["w2"].astype(jnp.float16), rounded["weights"]["w2"])
    np.testing.assert_array_equal(exact["ids"], rounded["ids"])
    np.testing.assert_array_equal(exact["dispatch"].row, rounded["dispatch"].row)


def test_draw_weights_have_the_variance_of_their_fan_in():
    weights = draw(parse_job({**LAYER, "hidden": 64, "expand": 4}), ["weights"])["weights"]
    assert weights["w1"].shape == (4, 64, 256)
    assert weights["w1"].std() == pytest.approx(64**-0.5, rel=0.05)
    assert weights["w2"].std() == pytest.approx(256**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        *((LAYER, change) for change in ({"tokens": 33}, {"hidden": 17}, {"experts": 5}, {"topk": 1})),
        *((LAYER, change) for change in ({"dtype": "bfloat16"}, {"expand": 3}, {"seed": 18})),
        *((TOPK, change) for change in ({"tokens": 33}, {"experts": 5}, {"dtype": "bfloat16"}, {"seed": 18})),
        *((COMBINE, change) for change in ({"experts": 5}, {"hidden": 17}, {"topk": 1}, {"dtype": "float16"})),
    ],
)
def test_digest_field_that_makes_the_arrays_changes_it(fields, change):
    assert digest_of(fields, **change) != digest_of(fields)


@pytest.mark.parametrize(
    ("fields", "arm"),
    [
        (LAYER, {"backend": "blocked"}),
        (LAYER, {"env": {"A": "b"}}),
        (ROUTING, {"topk_impl": "sort"}),
        (ROUTING, {"strategy": "softk", "temperature": 2.0}),
        # the router's choice is made inside the step
        (ROUTING, {"topk": 1}),
    ],
)
def test_digest_of_another_arm_on_the_same_arrays_is_the_same(fields, arm):
    assert digest_of(fields, **arm) == digest_of(fields)
