"""What a runner drives: the steps of one slot, and the two ways a step says that it cannot go on.

A bench holds one job. The runner calls `inputs`, `lower`, `compile`, `check` and `drop` in the preparing pass, then
`place`, `warmup`, `measure` and `drop` in the timing pass, each at most once a pass. A bench knows nothing of events,
of visits or of the other slots.
"""

from typing import NamedTuple, Protocol

from core.failures import Kind


class JobFault(Exception):
    """The job is at fault: its run ends failed, and the process goes on with the next slot."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Unsupported(Exception):
    """The job has no meaning, or no means, on these devices: its run ends unsupported, for the reason given."""


class WrongDevice(Exception):
    """The process does not show the accelerator its visit asks for: no slot of it can run."""


class Measure(NamedTuple):
    """A number about a run; `scope` names the output, gradient or stage it is about, or is empty."""

    name: str
    value: float
    scope: str = ""


class Checked(NamedTuple):
    """What a check found: its numbers, and one sentence when the job is refused by them."""

    measures: tuple[Measure, ...]
    refusal: str | None = None


class Measured(NamedTuple):
    """What timing found: nanoseconds of each sample, in order, and numbers beside them."""

    wall_ns: tuple[int, ...]
    measures: tuple[Measure, ...] = ()


class Bench(Protocol):
    """The steps of one slot, in the order they are called. Each may raise JobFault, the first also Unsupported."""

    @property
    def devices(self) -> int:
        """How many devices the job uses, of those the process has."""
        ...

    @property
    def timed(self) -> bool:
        """False when a kernel of the job is only interpreted here: then it is checked and no more."""
        ...

    def inputs(self) -> str:
        """Draw and place the arrays. Returns the digest of the fields that make them."""
        ...

    def lower(self) -> str:
        """Lower the program for those arrays. Returns its fingerprint."""
        ...

    def compile(self) -> bool:
        """Compile it. True when the executable came out of the persistent cache."""
        ...

    def check(self) -> Checked:
        """Run the executable once and compare everything it returns with the reference."""
        ...

    def drop(self) -> None:
        """Let go of the arrays, keep the executable."""
        ...

    def place(self) -> None:
        """Draw and place the arrays again, for timing."""
        ...

    def warmup(self, calls: int) -> None:
        """Calls that are not timed."""
        ...

    def measure(self, calls: int) -> Measured:
        """Calls that are timed."""
        ...
