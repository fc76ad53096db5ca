"""The comparisons of one series: every arm with its reference, weighed together."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.analysis.comparability import (
    environment_difference,
    same_measurement,
    settings_difference,
    tested_axes,
    tested_settings,
)
from core.analysis.confidence import Confidence, confidence
from core.analysis.estimate import ENOUGH, Estimate, blocks_to_settle, estimate
from core.analysis.pairs import Key, Pair, paired
from core.analysis.variance import Components, components
from core.analysis.verdict import Evidence, Verdict, judge
from core.ledger.completeness import Standing, standings
from core.ledger.rows import Cell, Record

# What two equal programs differ by: DESIGN section 9.
BAND_ACCELERATOR = 0.005
BAND_CPU = 0.05


class Comparison(NamedTuple):
    """An arm against its reference. `tested`: the axes in which they differ. `needed`: blocks in all that would settle
    an inconclusive one, when a number can be given. `environments`: in how many its pairs were measured."""

    standing: Standing
    reference: Cell
    tested: tuple[str, ...]
    pairs: Sequence[Pair]
    estimate: Estimate | None
    verdict: Verdict
    confidence: Confidence
    obstacle: str | None
    needed: int | None
    band: float
    environments: int

    @property
    def cell(self) -> Cell:
        return self.standing.cell

    @property
    def devices(self) -> tuple[int, int]:
        """The devices used by the arm and by the reference."""
        return (self.pairs[0].arm.devices, self.pairs[0].reference.devices) if self.pairs else (1, 1)


def compare(record: Record, scatter: Components | None = None) -> list[Comparison]:
    """Every compared cell of a series, in the matrix' order; folded cells once, retired ones not at all.

    `scatter`: of a log-ratio on this kind of device, as the ledger knows it, for comparisons with one or two blocks.
    """
    band = noise_band(record)
    pairs = paired(record)
    chosen = _compared_cells(record)
    pair_sd = scatter.pair_sd(int(record.series.measure.get("iters", 1))) if scatter else None
    estimates = [estimate([p.log_ratio for p in pairs.get(_key(s.cell), [])], pair_sd) for s, _ in chosen]
    evidence = [_evidence(record, s.cell, r, pairs, e) for (s, r), e in zip(chosen, estimates, strict=True)]
    seeds = _agreeing_seeds(record, [s.cell for s, _ in chosen], estimates)
    return [
        Comparison(
            standing,
            reference,
            tested_axes(standing.cell, reference),
            own := pairs.get(_key(standing.cell), []),
            known.estimate,
            verdict,
            confidence(own, seeds[index]),
            known.obstacle,
            blocks_to_settle(known.estimate, band) if known.estimate and verdict is Verdict.INCONCLUSIVE else None,
            band,
            len({p.arm.environment for p in own}),
        )
        for index, ((standing, reference), known, verdict) in enumerate(
            zip(chosen, evidence, judge(evidence, band), strict=True)
        )
    ]


def noise_band(record: Record) -> float:
    """The series' own, else by the devices it was measured on: one run on a CPU makes it a CPU's."""
    stated = record.series.measure.get("noise_band")
    if stated is not None:
        return float(stated)
    on_cpu = any(facts.get("platform") == "cpu" for facts in record.environments.values())
    return BAND_CPU if on_cpu else BAND_ACCELERATOR


def needs_scatter(record: Record) -> bool:
    """Whether some comparison has too few blocks to show its own scatter."""
    return any(len(pairs) < ENOUGH for pairs in paired(record).values())


def device_kinds(record: Record) -> frozenset[str]:
    return frozenset(facts.get("device_kind", "") for facts in record.environments.values())


def scatter_of(records: Sequence[Record], kinds: frozenset[str]) -> Components | None:
    """What series on these kinds of device, and on no other, say about the scatter of a log-ratio."""
    alike = [pairs for record in records if device_kinds(record) <= kinds for pairs in paired(record).values()]
    runs = {run.id: run.wall_ns for pairs in alike for p in pairs for run in (p.arm, p.reference)}
    return components([[p.log_ratio for p in pairs] for pairs in alike], list(runs.values()))


def _key(cell: Cell) -> Key:
    return cell.job or "", cell.reference or ""


def _compared_cells(record: Record) -> list[tuple[Standing, Cell]]:
    current = [s for s in standings(record) if s.cell.job is not None and s.cell.retired is None]
    by_job = {s.cell.job: s.cell for s in reversed(current)}
    chosen = {_key(s.cell): s for s in reversed(current) if s.cell.reference not in (None, s.cell.job)}
    ordered = sorted(chosen.values(), key=lambda s: s.cell.ordinal)
    return [(s, by_job[s.cell.reference]) for s in ordered if s.cell.reference in by_job]


def _evidence(
    record: Record, cell: Cell, reference: Cell, pairs: Mapping[Key, list[Pair]], e: Estimate | None
) -> Evidence:
    own = pairs.get(_key(cell), [])
    jobs = [record.jobs[c.job or ""] for c in (cell, reference)]
    env, reference_env = (job.get("env", {}) for job in jobs)
    code, reference_code = (job.get("code", "") for job in jobs)
    tested = tested_settings(tested_axes(cell, reference), record.series)
    obstacle = settings_difference(env, reference_env, tested) or environment_difference(
        own, record.environments, tests_code=code != reference_code
    )
    return Evidence(same_measurement(own, env, reference_env, record.environments), obstacle, e)


def _agreeing_seeds(record: Record, cells: Sequence[Cell], estimates: Sequence[Estimate | None]) -> list[int]:
    """For each comparison: over how many seeds its like, equal but for the seed, has the sign it has itself."""
    seeds: dict[str, set[Any]] = defaultdict(set)
    keys = []
    for cell, e in zip(cells, estimates, strict=True):
        arm, reference = (dict(record.jobs[job]) for job in _key(cell))
        seed = (arm.pop("seed", None), reference.pop("seed", None))
        key = repr((sorted(arm.items()), sorted(reference.items()), e is not None and e.mean > 0))
        keys.append(key)
        if e is not None:
            seeds[key].add(seed)
    return [len(seeds[key]) for key in keys]
