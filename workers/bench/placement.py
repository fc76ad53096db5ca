"""Where a step's arguments lie: each as the program was lowered for, before the clock starts."""

from typing import Any

import jax

from workers.moe.layout import Layout


def place(arguments: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The arrays committed to where the layout wants them, all there when this returns."""
    return jax.block_until_ready(jax.device_put(arguments, layout.shardings(arguments)))


def require_as_lowered(executable: jax.stages.Compiled, arguments: dict[str, Any]) -> None:
    """Raise RuntimeError unless every argument lies as the executable wants it: else a call would move it, timed."""
    wanted = jax.tree.leaves(executable.input_shardings[0], is_leaf=lambda leaf: leaf is None)
    for want, array in zip(wanted, jax.tree.leaves(arguments), strict=True):
        if want is not None and not want.is_equivalent_to(array.sharding, array.ndim):
            raise RuntimeError(f"an argument of shape {array.shape} lies as {array.sharding}, the program wants {want}")
