"""What a controller needs to know of the ledger to decide: small, immutable, in queue order.

Built by `core.ledger.writer` in one read transaction; read by `orchestrator.plan`, which is pure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.failures import Kind
from core.lifecycle import Arm, VisitState


class OpenBlock(NamedTuple):
    """A block without an accepted visit, not closed. Arms by slot, slot 0 first. `codes`: job -> the commit whose code
    it runs, for those of its jobs that run one."""

    id: int
    experiment: str
    series: int
    grp: str
    ordinal: int
    arms: tuple[Arm, ...]
    origin: str
    avoid_host: str | None
    measured_by: Mapping[str, int]  # host -> accepted visits of this series and group there
    codes: Mapping[str, str] = {}


class OpenVisit(NamedTuple):
    """A visit that is leased, running, or lost while its block is still open."""

    id: int
    block: int
    experiment: str
    host: str
    state: VisitState


class SeriesView(NamedTuple):
    """What a series' runs say so far. `verdicts`: distinct jobs in the order they first got a final run -> None for a
    good one, the kind for a failed one. `measured`: the jobs with a good run. `failed`: those that failed for good.
    `ambiguous`: job -> the hosts it failed on, ambiguously, since it last ran well."""

    id: int
    experiment: str
    paused: str | None
    verdicts: tuple[Kind | None, ...]
    measured: frozenset[str]
    failed: frozenset[str]
    ambiguous: Mapping[str, Sequence[str]] = {}
    alarmed: bool = False  # it was paused once because its first jobs failed alike


class Snapshot(NamedTuple):
    """`blocks` in queue order: priority, put in front, first queued, ordinal, group. `blamed`: host -> the jobs that
    failed there ambiguously and ran well on another host afterwards, as far as they still count against it."""

    blocks: tuple[OpenBlock, ...]
    visits: tuple[OpenVisit, ...]
    series: Mapping[int, SeriesView]
    blamed: Mapping[str, frozenset[str]] = {}
