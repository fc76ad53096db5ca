"""The bench of every micro-benchmark: draws, places, lowers, compiles, checks and times one job on the first device.

A kind of more than one stage also has its stages checked and timed, each a program of its own on what the stages before
it returned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from core.job import CapacityJob, MicroJob, MoeLayerJob
from workers.bench import program
from workers.bench.bench import Checked, Measure, Measured
from workers.bench.placement import require_as_lowered
from workers.bench.stage_timing import Part, Stages
from workers.bench.timing import wall_chain
from workers.micro.arguments import digest, draw
from workers.micro.check import check
from workers.micro.kinds import Definition, definition
from workers.micro.reference import reference
from workers.moe.routing import expert_load
from workers.moe.stages import Stage, State, run_stages


@dataclass
class MicroBench:
    """Holds what one step hands to the next: the arrays on host and device, the lowered program, the executables."""

    chosen: MicroJob
    job: MicroJob = field(init=False)
    _definition: Definition = field(init=False)
    _drawn: State = field(init=False)
    _placed: State = field(init=False)
    _lowered: program.Lowered = field(init=False)
    _executable: jax.stages.Compiled = field(init=False)
    _stages: Stages | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # fields that cannot matter decide nothing
        self.job = self.chosen.canonicalised()
        self._definition = definition(self.job)

    @property
    def devices(self) -> int:
        return 1

    @property
    def timed(self) -> bool:
        return True

    def inputs(self) -> str:
        self._drawn = draw(self.job, self._definition.arguments)
        self._placed = _on_first_device(self._drawn)
        return digest(self.job, self._definition.arguments)

    def lower(self) -> str:
        step = _whole(self._definition.stages(self.job), self._definition.returns)
        self._lowered = program.lower(step, (self._placed,))
        return self._lowered.fingerprint

    def compile(self) -> bool:
        self._executable, cached = self._lowered.compile()
        require_as_lowered(self._executable, self._placed)
        stages = self._definition.stages(self.job)
        if len(stages) > 1:
            self._stages = Stages.compiled([_alone(stage) for stage in stages], self._placed)
        return cached

    def check(self) -> Checked:
        expected = reference(self.job, self._drawn)
        found = check(self._call(), expected, self.job.dtype)
        refusals = [found.refusal, *self._refusals_of_stages(expected)]
        return Checked(
            measures=(*routing_measures(self.job, expected), *found.measures),
            refusal="; ".join(filter(None, refusals)) or None,
        )

    def drop(self) -> None:
        for name in ("_drawn", "_placed", "_lowered"):
            self.__dict__.pop(name, None)

    def place(self) -> None:
        self._placed = _on_first_device(draw(self.job, self._definition.arguments))
        require_as_lowered(self._executable, self._placed)

    def warmup(self, calls: int) -> None:
        wall_chain(self._call, calls)

    def measure(self, calls: int) -> Measured:
        whole = wall_chain(self._call, calls)
        if self._stages is None:
            return Measured(whole)
        measures = self._stages.measure(self._placed, calls, wall_chain, float(np.median(whole)))
        return Measured(whole, (*measures, routing_share(measures)) if isinstance(self.job, MoeLayerJob) else measures)

    def _call(self) -> State:
        return self._executable(self._placed)

    def _refusals_of_stages(self, expected: State) -> Iterator[str]:
        for name, executable, state in self._stages.runs(self._placed) if self._stages else ():
            if refusal := check(executable(state), expected, self.job.dtype).refusal:
                yield f"stage {name} alone: {refusal}"


def _alone(stage: Stage) -> Part:
    return Part(stage.name, lambda _: stage.run)


def _on_first_device(arrays: State) -> State:
    return jax.block_until_ready(jax.device_put(arrays, jax.devices()[0]))


def _whole(stages: Sequence[Stage], returns: Sequence[str]) -> Callable[[State], State]:
    def step(state: State) -> State:
        after = run_stages(stages, state)
        return {name: after[name] for name in returns}

    return step


def routing_share(measures: tuple[Measure, ...]) -> Measure:
    """Of a layer, the share of its stages' time that is no expert's."""
    stage_ns = {measure.scope: measure.value for measure in measures if measure.name == "stage_ns"}
    return Measure("routing_share", (stage_ns["pack"] + stage_ns["combine"]) / sum(stage_ns.values()))


def routing_measures(job: MicroJob, expected: State) -> tuple[Measure, ...]:
    """How evenly assignments fall on experts, before any is dropped, and how many a capacity drops.

    load_cv: standard deviation over mean of the experts' assignments. avg_drop_rate: dropped ones of all assignments;
    token_drop_rate: tokens that keep none of theirs, of all.
    """
    load = expert_load(expected["ids"], job.experts) if "ids" in expected else expected["dispatch"].group_sizes
    measures = (
        Measure("load_mean", float(np.mean(load))),
        Measure("load_cv", float(np.std(load) / np.mean(load))),
    )
    if not isinstance(job, CapacityJob):
        return measures
    dropped = expected["dispatch"].row == job.experts * job.capacity
    return (
        *measures,
        Measure("avg_drop_rate", float(np.mean(dropped))),
        Measure("token_drop_rate", float(np.mean(dropped.all(axis=1)))),
    )
