"""A step lowered, told apart by its fingerprint, and compiled through JAX's persistent cache."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.mlir import ir

from core.failures import Kind
from workers.bench.bench import JobFault

# A larger constant is data the compiler can compute on before the clock starts: a folded sort is not a measured sort.
LARGEST_CONSTANT_BYTES = 1024

_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_hits = 0


def _count_hit(event: str, **_: Any) -> None:
    global _hits
    _hits += event == _CACHE_HIT


jax.monitoring.register_event_listener(_count_hit)


@dataclass(frozen=True)
class Lowered:
    """A program before it is compiled."""

    stage: jax.stages.Lowered
    fingerprint: str

    def compile(self) -> tuple[jax.stages.Compiled, bool]:
        """The executable, and whether it came out of the persistent cache."""
        before = _hits
        executable = self.stage.compile()
        return executable, _hits > before


def lower(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Lowered:
    """Lower a step for arguments that lie where they will lie when it is timed.

    Raises JobFault when the program captures a constant that belongs among its arguments.
    """
    stage = jax.jit(step).lower(*arguments)
    module: Any = stage.compiler_ir("stablehlo")
    largest = max(_constant_bytes(module), default=0)
    if largest > LARGEST_CONSTANT_BYTES:
        raise JobFault(
            Kind.COMPILE_ERROR,
            f"the program captures a constant of {largest} bytes ({LARGEST_CONSTANT_BYTES} are allowed):"
            " pass it as an argument",
        )
    return Lowered(stage, fingerprint(module.operation.get_asm(enable_debug_info=False)))


def fingerprint(stablehlo: str) -> str:
    """64 hexadecimal digits, equal for programs that differ only in the names given to module, functions and results.

    stablehlo: the module as text, without debug locations.
    """
    names: dict[str, str] = {}
    nameless = re.sub(r"^module @\S+", "module", stablehlo)
    nameless = re.sub(r'jax\.result_info = "[^"]*"', "", nameless)
    nameless = re.sub(r"@[\w.$-]+", lambda found: names.setdefault(found[0], f"@{len(names)}"), nameless)
    return hashlib.sha256(nameless.encode()).hexdigest()


def _constant_bytes(module: ir.Module) -> Iterator[int]:
    """The size of every constant in a module that is not one value repeated."""
    for operation in _operations(module.operation):
        if operation.name != "stablehlo.constant":
            continue
        value: Any = ir.DenseElementsAttr(operation.attributes["value"])
        if not value.is_splat:
            yield memoryview(value).nbytes


def _operations(operation: ir.Operation) -> Iterator[ir.Operation]:
    yield operation
    for region in operation.regions:
        for block in region:
            for inner in block:
                yield from _operations(inner.operation)
