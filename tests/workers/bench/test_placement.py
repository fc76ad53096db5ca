import jax
import numpy as np
import pytest

from core.job import MoeBlockJob
from workers.bench.inputs import draw
from workers.bench.placement import place, require_as_lowered
from workers.moe.step import step

JOB = MoeBlockJob(tokens=8, hidden=4, mlp_dim=4, experts=2, topk=1, backend="blocked")


def test_require_as_lowered_array_on_another_device_is_refused():
    first, second = jax.devices()[:2]
    placed = place(draw(JOB))
    executable = jax.jit(step(JOB)).lower(*placed).compile()
    require_as_lowered(executable, placed)
    assert all(leaf.devices() == {first} and leaf.committed for leaf in jax.tree.leaves(placed))
    with pytest.raises(RuntimeError, match=r"shape \(8, 4\) lies as"):
        require_as_lowered(executable, placed._replace(x=jax.device_put(np.asarray(placed.x), second)))
