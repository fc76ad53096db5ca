"""The MoE block's bench: draws, places, lowers, compiles, checks and times one job on its devices."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from core.accounting import fixed_rows
from core.failures import Kind
from core.job import MoeBlockJob
from core.job.combinations import EXPERT_PARALLEL
from workers.bench import conformity, program
from workers.bench.bench import Checked, JobFault, Measure, Measured, Unsupported
from workers.bench.census import Census, census
from workers.bench.check import check
from workers.bench.conformity import SCOPES, nonconformities
from workers.bench.inputs import Inputs, digest, draw
from workers.bench.placement import place, require_as_lowered
from workers.bench.stage_timing import Part, Stages
from workers.bench.timing import wall_sync
from workers.moe import step
from workers.moe.buffer import buffer_rows
from workers.moe.grouped.backends import BackendMissing, interpreted
from workers.moe.layout import Layout
from workers.moe.routing import describe, kept
from workers.moe.stages import Stage


@dataclass
class MoeBlockBench:
    """Holds what one step hands to the next: the arrays on host and device, the lowered program, the executable."""

    chosen: MoeBlockJob
    job: MoeBlockJob = field(init=False)
    _layout: Layout = field(init=False)
    _program: step.Program = field(init=False)
    _drawn: Inputs = field(init=False)
    _placed: dict[str, Any] = field(init=False)
    _pack_ahead: Callable[[dict[str, Any]], dict[str, Any]] = field(init=False)
    _lowered: program.Lowered = field(init=False)
    _executable: jax.stages.Compiled = field(init=False)
    _census: Census = field(init=False)
    _stages: Stages | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        # fields that cannot matter decide nothing
        self.job = self.chosen.canonicalised()
        self._layout = Layout.of(self.job, jax.devices())

    @property
    def devices(self) -> int:
        return len(self._layout.devices)

    @property
    def timed(self) -> bool:
        groups = self.job.parallel_mode != "ref_dp"
        return not (groups and interpreted(self.job, self._layout.devices[0].platform))

    def inputs(self) -> str:
        _require_divisible(self.job, self.devices)
        self._drawn = draw(self.job)
        rows = buffer_rows(self.job, self._drawn.routing.ids, self.devices)
        try:
            self._program = step.program(self._layout, rows)
        except BackendMissing as error:
            raise Unsupported(str(error)) from error
        self._pack_ahead = jax.jit(self._program.pack_ahead)
        self._placed = self._place(self._drawn)
        return digest(self.job)

    def lower(self) -> str:
        self._lowered = program.lower(self._program.step, (self._placed,))
        return self._lowered.fingerprint

    def compile(self) -> bool:
        self._executable, cached = self._lowered.compile()
        require_as_lowered(self._executable, self._placed)
        self._census = census(self._executable, SCOPES)
        platform = self._layout.devices[0].platform
        if wrong := list(nonconformities(self.job, self.devices, self._census, platform)):
            raise JobFault(Kind.COMPILE_ERROR, "; ".join(wrong))
        if self.job.stage_timing and self.timed:
            self._stages = Stages.compiled([self._alone(stage) for stage in self._program.stages], self._placed)
        return cached

    def check(self) -> Checked:
        found = check(self.job, self._drawn, self._call())
        if self._stages is not None and not found.refusal:
            # where every device holds all tokens, each gives its own y
            y = self._stages.result(self._placed)["y"][: self.job.tokens]
            apart = check(self.job, self._drawn, {"y": y}).refusal
            found = found._replace(refusal=apart and f"the stages one by one: {apart}")
        measures = (*self._routing_measures(), *conformity.measures(self._census), *found.measures)
        return found._replace(measures=measures)

    def drop(self) -> None:
        for name in ("_drawn", "_placed", "_lowered"):
            self.__dict__.pop(name, None)

    def place(self) -> None:
        self._placed = self._place(draw(self.job))
        require_as_lowered(self._executable, self._placed)

    def warmup(self, calls: int) -> None:
        wall_sync(self._call, calls)

    def measure(self, calls: int) -> Measured:
        whole = wall_sync(self._call, calls)
        if self._stages is None:
            return Measured(whole)
        return Measured(whole, self._stages.measure(self._placed, calls, wall_sync, float(np.median(whole))))

    def _call(self) -> dict[str, jax.Array]:
        return self._executable(self._placed)

    def _place(self, inputs: Inputs) -> dict[str, Any]:
        """The step's arguments where it wants them: the drawn ones, or what packing them ahead makes of them."""
        placed = place(inputs.arguments, self._layout)
        return jax.block_until_ready(self._pack_ahead(placed)) if self._program.ahead else placed

    def _alone(self, stage: Stage) -> Part:
        return Part(stage.name, lambda made: self._program.stage_step(stage, made))

    def _routing_measures(self) -> tuple[Measure, ...]:
        job, routing = self.job, self._drawn.routing
        keep = kept(routing.ids, job.experts, job.capacity)
        real = np.count_nonzero(routing.ids < job.experts)
        executed = fixed_rows(job).executed
        return (
            *(Measure(name, value) for name, value in describe(routing.ids, job.experts, keep)._asdict().items()),
            Measure("model_rows", float(np.count_nonzero(keep))),
            Measure("executed_rows", float(real if executed is None else executed)),
        )


def _require_divisible(job: MoeBlockJob, devices: int) -> None:
    """Raise Unsupported for a job that cannot be split evenly over the devices."""
    if job.parallel_mode in EXPERT_PARALLEL and job.experts % devices:
        raise Unsupported(f"experts = {job.experts} cannot be split over {devices} devices by {job.parallel_mode}")
    splits_tokens = job.parallel_mode not in ("none", "ep_dense", "ep") or bool(job.shared_expert_dim)
    if job.parallel_mode != "none" and splits_tokens and job.tokens % devices:
        raise Unsupported(f"tokens = {job.tokens} cannot be split over {devices} devices by {job.parallel_mode}")
