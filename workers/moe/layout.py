"""Where the arrays of a job lie: on one device, or split and replicated over a mesh of several."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from core.job import MoeBlockJob
from core.job.combinations import PROFILE_HARNESS
from workers.moe.parallel.devices import AXIS
from workers.moe.stages import SHARED

SPLIT = PartitionSpec(AXIS)
EVERYWHERE = PartitionSpec()

# The modes in which every device holds all tokens.
ALL_TOKENS = ("ep_dense", "ep")


@dataclass(frozen=True)
class Layout:
    """A job on its devices: the first one under parallel_mode = none and devices = 1."""

    job: MoeBlockJob
    devices: tuple[jax.Device, ...]

    @classmethod
    def of(cls, job: MoeBlockJob, available: list[jax.Device]) -> "Layout":
        return cls(job, tuple(available[:1] if job.parallel_mode == "none" or job.devices == 1 else available))

    @property
    def mesh(self) -> Mesh | None:
        """None where the block is a program of one device."""
        if self.job.parallel_mode == "none":
            return None
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @property
    def tokens(self) -> PartitionSpec:
        """How arrays of tokens lie: x, y, dx, the routing."""
        return EVERYWHERE if self.job.parallel_mode in ALL_TOKENS else SPLIT

    def weight(self, name: str) -> PartitionSpec:
        """How a weight lies, and its gradient."""
        everywhere = name.startswith(SHARED) or self.job.parallel_mode in PROFILE_HARNESS
        return EVERYWHERE if everywhere else SPLIT

    def specs(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The partition of each argument of a step, of weights by name."""
        specs: dict[str, Any] = dict.fromkeys(arguments, self.tokens)
        return specs | {"weights": {name: self.weight(name) for name in arguments["weights"]}}

    def shardings(self, arguments: dict[str, Any]) -> Any:
        """The same as shardings of this layout's devices."""
        mesh = self.mesh
        if mesh is None:
            one: Sharding = SingleDeviceSharding(self.devices[0])
            return jax.tree.map(lambda _: one, arguments)
        return jax.tree.map(
            lambda spec, part: jax.tree.map(lambda _: NamedSharding(mesh, spec), part),
            self.specs(arguments),
            arguments,
            is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
        )
