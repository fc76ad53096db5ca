"""What readers get of a ledger: small frozen rows, one type a table, documents already parsed.

They know neither SQLite nor the models that the writer validates with, so that a reader starts quickly.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Experiment(NamedTuple):
    id: str
    goal: str
    priority: int
    queued_by: str
    queued_at_ns: int
    paused: str | None


class Series(NamedTuple):
    """One measuring of an experiment. `measure`, `baseline`, `overrides` and `revisions` are the parsed documents."""

    id: int
    experiment: str
    ordinal: int
    text: str
    overrides: Mapping[str, Any]
    measure: Mapping[str, Any]
    interleaved: tuple[str, ...]
    baseline: Mapping[str, Any]
    code: str
    queued_at_ns: int
    revisions: Mapping[str, str]


class Cell(NamedTuple):
    """A point of the matrix: `job` and the `reference` it is compared with, or `why` it has none."""

    ordinal: int
    coordinates: Mapping[str, Any]
    grp: str | None
    job: str | None
    reference: str | None
    why: str | None
    retired: str | None


class Slot(NamedTuple):
    """A place in a block. `reference` is the slot it is paired with: its own index for a reference."""

    job: str
    role: str
    reference: int


class Block(NamedTuple):
    id: int
    grp: str
    ordinal: int
    slots: tuple[Slot, ...]
    origin: str
    front: int
    avoid_host: str | None
    accepted_visit: int | None
    closed: str | None


class Visit(NamedTuple):
    id: int
    block: int
    host: str
    sitting: str | None
    state: str
    kind: str | None
    reason: str
    ended_at_ns: int | None


class Run(NamedTuple):
    """One slot measured in one visit. `devices`: as many as its metrics are about, 1 when it has none. `wall_ns`: its
    iterations in order, or () when they were not asked for."""

    id: int
    visit: int
    slot: int
    job: str
    role: str
    environment: str | None
    program: str | None
    inputs: str | None
    outcome: str | None
    kind: str | None
    phase: str | None
    reason: str
    devices: int
    wall_ns: tuple[int, ...] = ()


class Record(NamedTuple):
    """All of one series. `jobs`: id -> spec; `environments`: id -> facts; `runs` by visit, then slot; `forgiven`: job
    -> the visit up to which `retry` forgave its failures."""

    experiment: Experiment
    series: Series
    cells: tuple[Cell, ...]
    blocks: tuple[Block, ...]
    visits: Mapping[int, Visit]
    runs: tuple[Run, ...]
    jobs: Mapping[str, Mapping[str, Any]]
    environments: Mapping[str, Mapping[str, str]]
    forgiven: Mapping[str, int]
