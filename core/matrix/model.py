"""What a matrix says and what it expands to: frozen values, complete enough to be stored and queued."""

from typing import Annotated, Any

from pydantic import Field

from core.job import KINDS, Job, JobSpec, MicroJob
from core.model import Frozen

# One visit holds a group: more arms than this would spread a comparison over so long that the host drifts.
MAX_ARMS = 16


class Question(Frozen):
    """`[experiment]`."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$", description="names the experiment for good")
    goal: str = Field(min_length=1, description="the question, in a sentence")
    jobs: Annotated[int, Field(ge=1)] | None = Field(None, description="checked: distinct jobs after folding")
    priority: int = Field(0, description="the larger, the earlier")


class Measure(Frozen):
    """`[measure]`. The upper bounds catch typing errors: nobody waits for so many."""

    blocks: Annotated[int, Field(ge=1, le=1_000)] = Field(6, description="paired blocks of every group")
    iters: Annotated[int, Field(ge=1, le=100_000)] = Field(
        5, description="timed iterations of a run; 100 for a micro-benchmark when not given"
    )
    warmup: Annotated[int, Field(ge=0, le=100_000)] = Field(
        2, description="untimed iterations before them; 10 for a micro-benchmark when not given"
    )
    interleave: tuple[str, ...] | None = Field(
        None, strict=False, description="axes compared inside one visit; the baseline's when not given"
    )
    noise_band: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="effects inside it count as none; 0.005 on accelerators and 0.05 on a CPU when not given"
    )


def usual_measure(kind: str) -> dict[str, int]:
    """What `[measure]` says for a kind of job when a matrix does not, where that is not Measure's own default.

    A micro-benchmark's call takes microseconds, and these are its logbook's counts (moe_routing_bench).
    """
    return {"warmup": 10, "iters": 100} if issubclass(KINDS[kind], MicroJob) else {}


class Overrides(Frozen):
    """What the command line changed, as it was typed."""

    axes: dict[str, str] = Field(default_factory=dict, description="-a topk=2,4: an axis, or a field made one")
    exclude: tuple[str, ...] = Field((), strict=False, description="-x shape=L,topk=2: all of these at once")
    sets: tuple[str, ...] = Field((), strict=False, description="--set measure.iters=5")


NO_OVERRIDES = Overrides()


class Cell(Frozen):
    """One point of the matrix, with the job it stands for or the reason it has none."""

    ordinal: int
    coordinates: dict[str, str] = Field(description="axis -> printed value, or a bundle's label")
    group: int | None = Field(description="the group its job is measured in")
    job: JobSpec | None
    why: str | None = Field(description="why it has no job")
    reference: bool = Field(description="it takes [baseline]'s values")
    folded_into: int | None = Field(description="the first cell with the same job")


class Group(Frozen):
    """The arms of one visit: at most MAX_ARMS distinct jobs, a reference first and each reference before its arms.

    `reference_of[i]` is the index of the job that job i is compared with; a reference is paired with itself.
    """

    ordinal: int
    label: str = Field(description="unique in the matrix: the coordinates its cells share")
    jobs: tuple[JobSpec, ...] = Field(min_length=1, max_length=MAX_ARMS)
    reference_of: tuple[int, ...]


class Expansion(Frozen):
    """A matrix, expanded."""

    experiment: str = Field(description="its id")
    goal: str
    priority: int
    text: str = Field(description="the TOML as read")
    overrides: Overrides
    measure: Measure
    interleaved: tuple[str, ...] = Field(description="axes compared inside a visit")
    baseline: dict[str, Any] = Field(description="axis -> the value that the others are compared with")
    cells: tuple[Cell, ...] = Field(description="product order of the axes as written, then the includes")
    groups: tuple[Group, ...]
    revisions: dict[str, str] = Field(description="code as written -> the commit it stands for")
    notes: tuple[str, ...] = Field(description="what was folded, skipped, excluded or not checked: sentences")

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The distinct jobs, in the order of the first cell of each."""
        return tuple(cell.job for cell in self.cells if cell.job is not None and cell.folded_into is None)
