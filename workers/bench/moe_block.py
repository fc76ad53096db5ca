"""The MoE block's bench: draws, places, lowers, compiles, checks and times one job on one device."""

from dataclasses import dataclass, field
from typing import Any

import jax
from numpy.typing import NDArray

from core.job import MoeBlockJob
from workers.bench import program
from workers.bench.bench import Checked, Measure
from workers.bench.check import check
from workers.bench.inputs import Inputs, digest, draw
from workers.bench.placement import place, require_as_lowered
from workers.bench.timing import wall_sync
from workers.moe.routing import expert_load
from workers.moe.step import step


@dataclass
class MoeBlockBench:
    """Holds what one step hands to the next: the arrays on host and device, the lowered program, the executable."""

    job: MoeBlockJob
    _drawn: Inputs = field(init=False)
    _placed: Inputs = field(init=False)
    _lowered: program.Lowered = field(init=False)
    _executable: jax.stages.Compiled = field(init=False)

    def inputs(self) -> str:
        self._drawn = draw(self.job)
        self._placed = place(self._drawn)
        return digest(self.job)

    def lower(self) -> str:
        self._lowered = program.lower(step(self.job), self._placed)
        return self._lowered.fingerprint

    def compile(self) -> bool:
        self._executable, cached = self._lowered.compile()
        require_as_lowered(self._executable, self._placed)
        return cached

    def check(self) -> Checked:
        found = check(self.job, self._drawn, self._placed, self._call())
        return found._replace(measures=load_measures(expert_load(self._drawn.ids, self.job.experts)) + found.measures)

    def drop(self) -> None:
        for name in ("_drawn", "_placed", "_lowered"):
            self.__dict__.pop(name, None)

    def place(self) -> None:
        self._placed = place(draw(self.job))
        require_as_lowered(self._executable, self._placed)

    def warmup(self, calls: int) -> None:
        wall_sync(self._call, calls)

    def measure(self, calls: int) -> tuple[int, ...]:
        return wall_sync(self._call, calls)

    def _call(self) -> dict[str, jax.Array]:
        return self._executable(*self._placed)


def load_measures(load: NDArray[Any]) -> tuple[Measure, ...]:
    """How evenly assignments fall on experts: rows of an expert, and cv = std / mean. load: [experts]."""
    mean, std = float(load.mean()), float(load.std())
    return (
        Measure("load_min", float(load.min())),
        Measure("load_max", float(load.max())),
        Measure("load_mean", mean),
        Measure("load_std", std),
        Measure("load_cv", std / mean),
    )
