"""Does the compiled program do what the job says? Its collectives are the mode's, its int8 products where they belong.

A flag is an intention. What ran is in the program, and a number under the wrong name is worse than none.
"""

from collections.abc import Iterator

from core.job import MoeBlockJob
from workers.bench.bench import Measure
from workers.bench.census import ELSEWHERE, Census
from workers.moe.multiply import Numbers, routed_numbers, shared_numbers

# What a mode's forward pass sends; `total` and the gradients of what is replicated add a sum to the backward pass.
FORWARD: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "ref_dp": frozenset(),
    "staged_dp": frozenset(),
    "ep_dense": frozenset({"all-reduce"}),
    "ep": frozenset({"all-reduce"}),
    "ep_ring": frozenset({"all-gather", "reduce-scatter"}),
    "ep_a2a": frozenset({"all-to-all"}),
}
# What a compiler may add. A TPU sets the edges of a reduce-scatter right by a collective-permute, where the rows do not
# divide as its tiles do; and the few counts that ep_a2a gathers first it sums instead.
TOLERATED: dict[str, frozenset[str]] = {
    "ep_ring": frozenset({"collective-permute"}),
    "ep_a2a": frozenset({"all-gather", "all-reduce"}),
}

# The stages whose products can be int8.
ROUTED_STAGES, SHARED_STAGES = ("up", "down"), ("shared",)
SCOPES = ROUTED_STAGES + SHARED_STAGES


def measures(census: Census) -> tuple[Measure, ...]:
    """How many collectives of each kind the program has, and int8 products in each stage, as they are and widened."""
    return (
        *(Measure("collectives", float(count), kind) for kind, count in sorted(census.collectives.items())),
        *(Measure("int8_dots", float(count), scope) for scope, count in sorted(census.int8_dots.items())),
        *(Measure("widened_dots", float(count), scope) for scope, count in sorted(census.widened_dots.items())),
    )


def nonconformities(job: MoeBlockJob, devices: int, census: Census, platform: str) -> Iterator[str]:
    """What the program does otherwise than the job says: one sentence each."""
    wanted = FORWARD[job.parallel_mode]
    if job.bench_pass == "forward_backward" and wanted:
        wanted |= {"all-reduce"}
    found = frozenset("all-to-all" if kind == "ragged-all-to-all" else kind for kind in census.collectives)
    if foreign := found - wanted - TOLERATED.get(job.parallel_mode, frozenset()):
        yield f"the program has {_words(foreign)}, which parallel_mode = {job.parallel_mode} does not ask for"
    # between one device and itself the compiler leaves everything out
    if devices > 1 and (missing := wanted - found):
        yield f"the program has no {_words(missing)}, which parallel_mode = {job.parallel_mode} consists of"

    # on a CPU XLA widens the products it has no int8 kernel for; elsewhere that is not int8
    dots = _int8_dots(census) if platform == "cpu" else census.int8_dots
    said = {
        **dict.fromkeys(ROUTED_STAGES, routed_numbers(job) is Numbers.INT8),
        **dict.fromkeys(SHARED_STAGES, shared_numbers(job) is Numbers.INT8),
    }
    for scope, is_int8 in said.items():
        if is_int8 and not dots.get(scope):
            yield f"quant_mode = {job.quant_mode}, and the program multiplies no int8 in {scope}"
    for scope in dots:
        # a compiler may lose the name of a product of the backward pass
        if not said.get(scope) and not (scope == ELSEWHERE and any(said.values())):
            yield f"the program multiplies int8 in {scope or 'no stage'}, and quant_mode = {job.quant_mode}"


def _int8_dots(census: Census) -> dict[str, int]:
    scopes = sorted({*census.int8_dots, *census.widened_dots})
    return {scope: census.int8_dots.get(scope, 0) + census.widened_dots.get(scope, 0) for scope in scopes}


def _words(kinds: frozenset[str]) -> str:
    return " and ".join(sorted(kinds))
