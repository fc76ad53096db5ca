"""The stages of a block timed one by one, beside the whole: each stage a program of its own, on its own inputs.

The sum is more than the whole where the compiler works across stages, and every stage pays its own dispatch.
"""

import gc
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from workers.bench.bench import Measure
from workers.bench.timing import wall_sync
from workers.moe.stages import State
from workers.moe.step import Program


class Stages(NamedTuple):
    """The executable of each stage, by its name, in order."""

    executables: dict[str, jax.stages.Compiled]

    @classmethod
    def compiled(cls, program: Program, arguments: dict[str, Any]) -> Self:
        """Compile each stage for the state that the stages before it make of the step's arguments."""
        state, made = dict(arguments), frozenset[str]()
        executables = {}
        for stage in program.stages:
            executable = jax.jit(program.stage_step(stage, made)).lower(state).compile()
            executables[stage.name] = executable
            added = executable(state)
            state, made = state | added, made | added.keys()
        return cls(executables)

    def measure(self, arguments: dict[str, Any], calls: int, whole_ns: float) -> tuple[Measure, ...]:
        """stage_ns by stage, the median of `calls`; their sum; and the sum over the whole step's `whole_ns`."""
        state: State = dict(arguments)
        measures = []
        for name, executable in self.executables.items():
            wall_ns = wall_sync(partial(executable, state), calls)
            measures.append(Measure("stage_ns", float(np.median(wall_ns)), name))
            state |= executable(state)
        total = sum(measure.value for measure in measures)
        del state
        gc.collect()
        return (*measures, Measure("stage_sum_ns", total), Measure("stage_sum_of_whole", total / whole_ns))
