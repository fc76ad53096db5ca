"""Stages timed one by one, beside the whole: each a program of its own, on what the stages before it made.

The sum is more than the whole where the compiler works across stages, and every stage pays its own dispatch.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from workers.bench import program
from workers.bench.bench import Measure

State = dict[str, Any]
# (call, calls) -> nanoseconds of each sample.
Timer = Callable[[Callable[[], Any], int], tuple[int, ...]]


class Part(NamedTuple):
    """A stage to be compiled alone. `step_after` (names of what earlier stages made) -> (state) -> what it adds."""

    name: str
    step_after: Callable[[frozenset[str]], Callable[[State], State]]


class Stages(NamedTuple):
    """The executable of each stage, by its name, in order."""

    executables: dict[str, jax.stages.Compiled]

    @classmethod
    def compiled(cls, parts: Sequence[Part], arguments: State) -> Self:
        """Compile each stage for the state that those before it make of the step's arguments. Raises JobFault."""
        state, made = dict(arguments), frozenset[str]()
        executables = {}
        for part in parts:
            executables[part.name], _ = program.lower(part.step_after(made), (state,)).compile()
            added = executables[part.name](state)
            state, made = state | added, made | added.keys()
        return cls(executables)

    def runs(self, arguments: State) -> Iterator[tuple[str, jax.stages.Compiled, State]]:
        """Each stage's name and program, and the state it runs on, all there."""
        state = dict(arguments)
        for name, executable in self.executables.items():
            yield name, executable, state
            state = state | jax.block_until_ready(executable(state))

    def result(self, arguments: State) -> State:
        """The state after the last stage."""
        *_, (_, executable, state) = self.runs(arguments)
        return state | executable(state)

    def measure(self, arguments: State, calls: int, timer: Timer, whole_ns: float) -> tuple[Measure, ...]:
        """stage_ns by stage, the median of `calls` after one that is not timed; stage_sum_ns; and
        stage_sum_of_whole, their sum over the time of the whole step."""
        measures = []
        for name, executable, state in self.runs(arguments):
            jax.block_until_ready(executable(state))
            wall_ns = timer(partial(executable, state), calls)
            measures.append(Measure("stage_ns", float(np.median(wall_ns)), name))
        total = sum(measure.value for measure in measures)
        return (*measures, Measure("stage_sum_ns", total), Measure("stage_sum_of_whole", total / whole_ns))
