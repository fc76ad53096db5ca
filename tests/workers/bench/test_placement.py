import jax
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench.inputs import draw
from workers.bench.placement import place, require_as_lowered
from workers.moe.buffer import buffer_rows
from workers.moe.layout import Layout
from workers.moe.step import program


def job(**fields) -> MoeBlockJob:
    small = {"tokens": 8, "hidden": 4, "mlp_dim": 4, "experts": 4, "topk": 1, "shared_expert_dim": 4}
    return MoeBlockJob(**{**small, "backend": "blocked", **fields})


def test_require_as_lowered_array_on_another_device_is_refused():
    first, second = jax.devices()[:2]
    layout = Layout.of(job(), jax.devices())
    placed = place(draw(job()).arguments, layout)
    executable = jax.jit(program(layout, 8).step).lower(placed).compile()
    require_as_lowered(executable, placed)
    assert all(leaf.devices() == {first} and leaf.committed for leaf in jax.tree.leaves(placed))
    with pytest.raises(RuntimeError, match=r"shape \(8, 4\) lies as"):
        require_as_lowered(executable, placed | {"x": jax.device_put(np.asarray(placed["x"]), second)})


# Of each mode: whether every device holds all tokens, and whether it holds all experts.
HELD = {
    "ep_dense": (True, False),
    "ep": (True, False),
    "ep_ring": (False, False),
    "ep_a2a": (False, False),
    "ref_dp": (False, True),
    "staged_dp": (False, True),
}


@pytest.mark.parametrize(("mode", "held"), HELD.items())
def test_place_parallel_mode_splits_what_the_mode_splits(mode, held):
    chosen = job(parallel_mode=mode, routing="softmax_topk")
    layout, inputs = Layout.of(chosen, jax.devices()), draw(chosen)
    placed = place(inputs.arguments, layout)
    arrays = placed | placed["weights"]
    parts = {name: len(arrays[name].addressable_shards[0].data) for name in arrays if name != "weights"}
    tokens, experts = (8 if held[0] else 2), (4 if held[1] else 1)
    assert {parts["x"], parts["logits"]} == {tokens}
    assert {parts["w1"], parts["w2"], parts["w3"]} == {experts}
    assert parts["shared_w1"] == 4
    executable = jax.jit(program(layout, buffer_rows(chosen, inputs.routing.ids, 4)).step).lower(placed).compile()
    require_as_lowered(executable, placed)
    y = executable(placed)["y"]
    assert y.sharding.is_equivalent_to(placed["x"].sharding, 2)


def test_layout_one_device_asked_for_uses_one():
    assert len(Layout.of(job(parallel_mode="ep", devices=1), jax.devices()).devices) == 1
    assert len(Layout.of(job(parallel_mode="ep"), jax.devices()).devices) == 4
