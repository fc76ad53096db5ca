"""The bench of every micro-benchmark: draws, places, lowers, compiles, checks and times one job on the first device.

A kind of more than one stage also has its stages checked and timed, each a program of its own on what the stages before
it returned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np

from core.job import CapacityJob, MicroJob, MoeLayerJob
from workers.bench import program
from workers.bench.bench import Checked, Measure, Measured
from workers.bench.placement import require_as_lowered
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
    _stages: dict[str, jax.stages.Compiled] = field(init=False)

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
        self._stages = _compiled_alone(stages, self._placed) if len(stages) > 1 else {}
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
        if not self._stages:
            return Measured(whole)
        stage_ns = {}
        for name, executable, state in self._runs_of_stages():
            stage_ns[name] = float(np.median(wall_chain(partial(executable, state), calls)))
        return Measured(whole, tuple(stage_measures(self.job, stage_ns, float(np.median(whole)))))

    def _call(self) -> State:
        return self._executable(self._placed)

    def _runs_of_stages(self) -> Iterator[tuple[str, jax.stages.Compiled, State]]:
        """Each stage's name and program, and the state it runs on."""
        state = dict(self._placed)
        for name, executable in self._stages.items():
            yield name, executable, state
            state = state | executable(state)

    def _refusals_of_stages(self, expected: State) -> Iterator[str]:
        for name, executable, state in self._runs_of_stages():
            if refusal := check(executable(state), expected, self.job.dtype).refusal:
                yield f"stage {name} alone: {refusal}"


def _on_first_device(arrays: State) -> State:
    return jax.block_until_ready(jax.device_put(arrays, jax.devices()[0]))


def _whole(stages: Sequence[Stage], returns: Sequence[str]) -> Callable[[State], State]:
    def step(state: State) -> State:
        after = run_stages(stages, state)
        return {name: after[name] for name in returns}

    return step


def _compiled_alone(stages: Sequence[Stage], arguments: State) -> dict[str, jax.stages.Compiled]:
    """Each stage compiled for the state that those before it make of the arguments."""
    state, executables = dict(arguments), {}
    for stage in stages:
        executables[stage.name], _ = program.lower(stage.run, (state,)).compile()
        state |= executables[stage.name](state)
    return executables


def stage_measures(job: MicroJob, stage_ns: dict[str, float], whole_ns: float) -> Iterator[Measure]:
    """Each stage's time, their sum, the sum over the time of the whole, and of a layer the share that is no expert's.

    The sum is more than the whole where the compiler works across stages, and every stage pays its own dispatch.
    """
    for name, wall_ns in stage_ns.items():
        yield Measure("stage_ns", wall_ns, name)
    total = sum(stage_ns.values())
    yield Measure("stage_sum_ns", total)
    yield Measure("stage_sum_of_whole", total / whole_ns)
    if isinstance(job, MoeLayerJob):
        yield Measure("routing_share", (stage_ns["pack"] + stage_ns["combine"]) / total)


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
