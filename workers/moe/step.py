"""The timed step of a job: what one call computes, on one device or on several at once.

A step maps arguments by name to outputs by name, and everything it works on is an argument. On several devices the
whole step, derivatives included, is written for one of them and mapped over the mesh: a gradient is exact because every
collective states what its own derivative sends.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.job import MoeBlockJob
from core.job.combinations import EXPERT_PARALLEL
from workers.moe.block import block_stages
from workers.moe.composition import Composition
from workers.moe.grouped.backends import backend_of
from workers.moe.int8.quantised import Stored, restore
from workers.moe.layout import EVERYWHERE, SPLIT, Layout
from workers.moe.parallel.devices import share, total
from workers.moe.stages import SHARED, Stage, State, run_stages

Arguments = dict[str, Any]
Outputs = dict[str, Any]
Step = Callable[[Arguments], Outputs]

# Platforms whose compiler has a ragged all-to-all.
RAGGED = ("tpu", "gpu")


class Program(NamedTuple):
    """The block of a job on its devices: its stages for one of them, and the step they make up for all."""

    layout: Layout
    stages: tuple[Stage, ...]

    @property
    def step(self) -> Step:
        """forward: y [tokens, hidden]. forward_backward: loss = mean(y^2), a float32 scalar, and its gradients: dx,
        dw1 ..."""
        job, layout = self.layout.job, self.layout
        stages = self.stages[self.ahead :]
        if job.bench_pass == "forward":
            return _mapped(layout, _forward(job, stages), lambda _: {"y": layout.tokens})
        return _mapped(layout, _forward_backward(job, stages), lambda arguments: _gradient_specs(layout, arguments))

    @property
    def ahead(self) -> int:
        """How many stages are done before the timed call: under prequeue, the packing."""
        return 1 if self.layout.job.queue_mode == "prequeue" else 0

    def pack_ahead(self, arguments: Arguments) -> Arguments:
        """What a prequeued step takes in place of the drawn arguments: those packed, and what else it uses."""
        unused = ("ids",) if self.layout.job.shared_expert_dim else ("ids", "x")
        after = run_stages(self.stages[: self.ahead], arguments)
        return {name: array for name, array in after.items() if name not in unused}

    def stage_step(self, stage: Stage, made: frozenset[str]) -> Step:
        """A stage alone: from a state, of which earlier stages made some arrays, to what the stage makes."""

        def run(state: State) -> State:
            return stage.run(_ready(self.layout.job, state))

        mesh = self.layout.mesh
        if mesh is None:
            return run

        def mapped(state: State) -> State:
            given = self.layout.specs({name: state[name] for name in state if name not in made})
            specs = given | dict.fromkeys(made, SPLIT)
            return jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=SPLIT, check_vma=False)(state)

        return mapped


def program(layout: Layout, rows: int) -> Program:
    """The program of a job on its devices; `rows` of a packed buffer, from `buffer.buffer_rows`."""
    device = layout.devices[0]
    composition = Composition(
        job=layout.job,
        backend=backend_of(layout.job, device.platform, device.device_kind),
        shards=len(layout.devices),
        rows=rows,
        native=device.platform in RAGGED,
    )
    return Program(layout, block_stages(composition))


def _mapped(layout: Layout, run: Step, out_specs: Callable[[Arguments], Any]) -> Step:
    mesh = layout.mesh
    if mesh is None:
        return run

    def mapped(arguments: Arguments) -> Outputs:
        specs = layout.specs(arguments)
        each = jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=out_specs(arguments), check_vma=False)
        return each(arguments)

    return mapped


def _gradient_specs(layout: Layout, arguments: Arguments) -> dict[str, Any]:
    weights = {f"d{name}": layout.weight(name) for name in arguments["weights"]}
    return {"loss": EVERYWHERE, "dx": layout.tokens, **weights}


def _forward(job: MoeBlockJob, stages: Sequence[Stage]) -> Step:
    def forward_step(arguments: Arguments) -> Outputs:
        return {"y": run_stages(stages, _ready(job, arguments))["y"]}

    return forward_step


def _forward_backward(job: MoeBlockJob, stages: Sequence[Stage]) -> Step:
    """Routing and router weights are constants of the differentiated function; dispatch is part of it."""

    def forward_backward_step(arguments: Arguments) -> Outputs:
        def loss(x: jax.Array, carriers: dict[str, jax.Array]) -> jax.Array:
            weights = _restored(arguments["weights"], carriers)
            x, weights = _shared_between_devices(job, x, weights)
            y = run_stages(stages, arguments | {"x": x, "weights": weights})["y"]
            return _mean_square(job, y)

        carriers = _carriers(job, arguments["weights"])
        value, (dx, dweights) = jax.value_and_grad(loss, argnums=(0, 1))(arguments["x"], carriers)
        return {"loss": value, "dx": dx, **{f"d{name}": gradient for name, gradient in dweights.items()}}

    return forward_backward_step


def _shared_between_devices(
    job: MoeBlockJob, x: jax.Array, weights: dict[str, Any]
) -> tuple[jax.Array, dict[str, Any]]:
    """Under expert parallelism, what all devices hold and each uses in its own way: its derivatives must be summed."""
    if job.parallel_mode not in EXPERT_PARALLEL:
        return x, weights
    if job.parallel_mode in ("ep_dense", "ep"):
        x = share(x)
    return x, {name: share(array) if name.startswith(SHARED) else array for name, array in weights.items()}


def _mean_square(job: MoeBlockJob, y: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(y.astype(jnp.float32)))
    if job.parallel_mode in ("ep_ring", "ep_a2a"):
        squares = total(squares)
    return squares / (job.tokens * job.hidden)


def _carriers(job: MoeBlockJob, weights: dict[str, Any]) -> dict[str, jax.Array]:
    """What the loss is differentiated by: the weights, and zeros in the place of those that are stored as int8."""
    return {
        name: jnp.zeros(weight.values.shape, job.dtype) if isinstance(weight, Stored) else weight
        for name, weight in weights.items()
    }


def _restored(weights: dict[str, Any], carriers: dict[str, jax.Array]) -> dict[str, Any]:
    return {
        name: restore(weight, carriers[name]) if isinstance(weight, Stored) else carriers[name]
        for name, weight in weights.items()
    }


def _ready(job: MoeBlockJob, arguments: Arguments) -> Arguments:
    """The arguments as the stages take them."""
    weights = arguments["weights"]
    return arguments | {"weights": _restored(weights, _carriers(job, weights))}
