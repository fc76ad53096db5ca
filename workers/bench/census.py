"""What is in a compiled program: the collectives it runs, and the products it computes in int8.

Counted in the optimised HLO, where a program says what it does, whatever a job's flags say it should. An instruction
counts once, however often it runs: the body of a loop is not unrolled. Two collectives that the compiler combined are
one, and one that it split is several: the kinds are what was asked for, the counts are what became of it.

A TPU computes a large reduce-scatter as a fusion that keeps a slice of an all-reduce, and it is counted as what it is.
Where the rows do not divide as its tiles do, a collective-permute, which nobody asked for, sets the edges right.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

# By opcode, the starts of asynchronous ones included. What starts is done once, so a -done is not another.
COLLECTIVES = {
    "kAllGather": "all-gather",
    "kAllGatherStart": "all-gather",
    "kAllReduce": "all-reduce",
    "kAllReduceStart": "all-reduce",
    "kAllToAll": "all-to-all",
    "kCollectiveBroadcast": "collective-broadcast",
    "kCollectivePermute": "collective-permute",
    "kCollectivePermuteStart": "collective-permute",
    "kRaggedAllToAll": "ragged-all-to-all",
    "kReduceScatter": "reduce-scatter",
}
# A TPU multiplies matrices by convolutions of no extent, and by kernels, which are custom calls.
PRODUCTS = ("kDot", "kConvolution", "kCustomCall")
# The scope of a product that lies in none of the scopes asked for, or whose name the compiler lost: a TPU's of a ragged
# dot with transposed matrices, as derivatives have, and a CPU's of a vector.
ELSEWHERE = ""


class Census(NamedTuple):
    """collectives:  by kind, in XLA's words: "all-reduce", "reduce-scatter" ...
    int8_dots:    s8 x s8 -> s32, by scope, forward and backward together
    widened_dots: s32 x s32 -> s32, by scope: what XLA for a CPU makes of an s8 x s8 that its library does not do, say a
                  very small one. On an accelerator it would not be int8
    """

    collectives: Mapping[str, int]
    int8_dots: Mapping[str, int]
    widened_dots: Mapping[str, int]


def census(executable: jax.stages.Compiled, scopes: Iterable[str] = ()) -> Census:
    """Count what is in a program. `scopes` are the names of `jax.named_scope`s by which products are told apart."""
    scopes = tuple(scopes)
    collectives: Counter[str] = Counter()
    int8: Counter[str] = Counter()
    widened: Counter[str] = Counter()
    for instruction in _instructions(executable):
        opcode = instruction.opcode.name
        if opcode in COLLECTIVES:
            collectives["reduce-scatter" if _keeps_a_slice(instruction) else COLLECTIVES[opcode]] += 1
        elif opcode in PRODUCTS and _dtype(instruction) == "s32":
            operands = [_dtype(operand) for operand in instruction.operands()]
            if operands.count("s8") == 2:
                int8[_scope(instruction, scopes)] += 1
            elif opcode == "kDot" and operands == ["s32", "s32"]:
                widened[_scope(instruction, scopes)] += 1
    return Census(collectives, int8, widened)


def _instructions(executable: jax.stages.Compiled) -> Iterator[Any]:
    """Of every computation of a program: its entry, its fusions, its loops and what is run asynchronously."""
    runtime: Any = executable.runtime_executable()
    for module in runtime.hlo_modules():
        for computation in module.computations():
            yield from computation.instructions()


def _keeps_a_slice(instruction: Any) -> bool:
    """Whether this is an all-reduce of which nothing but a device's own slice is used."""
    users = [user.opcode.name for user in instruction.users()]
    return instruction.opcode.name == "kAllReduce" and users == ["kDynamicSlice"]


def _dtype(instruction: Any) -> str:
    """In XLA's words; of a tuple none."""
    found = re.search(r" = (\w+)\[", instruction.to_string())
    return found[1] if found else ""


def _scope(instruction: Any, scopes: tuple[str, ...]) -> str:
    """The first of `scopes` in an instruction's name: "jit(step)/transpose(jvp(up))/dot_general" is in "up"."""
    found = re.search(r'op_name="([^"]*)"', instruction.to_string())
    names = re.split(r"[/()]", found[1]) if found else ()
    return next((name for name in names if name in scopes), ELSEWHERE)
