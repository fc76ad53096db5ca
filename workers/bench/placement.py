"""Where a step's arguments lie: on one device, each as the program was lowered for."""

import jax

from workers.bench.inputs import Inputs


def place(inputs: Inputs) -> Inputs:
    """The arrays committed to the first device, all there when this returns."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.block_until_ready(jax.device_put(inputs, one))


def require_as_lowered(executable: jax.stages.Compiled, arguments: Inputs) -> None:
    """Raise RuntimeError unless every argument lies as the executable wants it: else a call would move it, timed."""
    wanted = jax.tree.leaves(executable.input_shardings[0])
    for want, array in zip(wanted, jax.tree.leaves(arguments), strict=True):
        if not want.is_equivalent_to(array.sharding, array.ndim):
            raise RuntimeError(f"an argument of shape {array.shape} lies as {array.sharding}, the program wants {want}")
