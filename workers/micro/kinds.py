"""What each kind of micro-benchmark is: the arguments of its timed call, its stages, and what it returns.

What a call returns is what is checked, so it returns all it has made that must lie in memory anyway.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from core.job import MicroJob
from workers.micro.stages import combine_stage, ffn_stage, gather_stage, pack_stage, route_stage, sort_stage
from workers.moe.stages import Stage


class Definition(NamedTuple):
    """`arguments`, `returns`: names in the state. `stages`: of a job of the kind, in order."""

    arguments: tuple[str, ...]
    stages: Callable[[Any], tuple[Stage, ...]]
    returns: tuple[str, ...]


def _routed(job: Any) -> tuple[Stage, ...]:
    return route_stage(job), pack_stage(job), combine_stage(job, "packed")


DEFINITIONS = {
    "topk": Definition(("logits",), lambda job: (route_stage(job),), ("ids", "gates")),
    "routing": Definition(("x", "logits"), _routed, ("ids", "gates", "packed", "y")),
    "pack": Definition(
        ("x", "ids", "gates"), lambda job: (pack_stage(job), combine_stage(job, "packed")), ("packed", "y")
    ),
    "pack_only": Definition(("x", "ids"), lambda job: (sort_stage(job), gather_stage(job)), ("dispatch", "packed")),
    "combine_only": Definition(("packed", "dispatch", "gates"), lambda job: (combine_stage(job, "packed"),), ("y",)),
    "moe_layer": Definition(
        ("x", "ids", "gates", "weights"),
        lambda job: (pack_stage(job), ffn_stage(job), combine_stage(job, "outputs")),
        ("packed", "outputs", "y"),
    ),
    "capacity": Definition(("x", "logits"), _routed, ("ids", "gates", "packed", "y")),
}


def definition(job: MicroJob) -> Definition:
    return DEFINITIONS[job.kind]
