"""What a series' jobs and cells are called for people."""

from collections.abc import Mapping

from core.ledger.rows import Cell, Record


def labels_of(record: Record) -> dict[str, str]:
    """job id -> its label among the jobs of the series."""
    # pydantic is worth a tenth of a second of start-up: only readers that print labels pay it
    from core.job import parse_job
    from core.labels import labels

    jobs = [parse_job(dict(spec)) for spec in record.jobs.values()]
    # of several names for a commit, the first that is written
    names = {commit: name for name, commit in reversed(list(record.series.revisions.items()))}
    return dict(zip(record.jobs, labels(jobs, names), strict=True))


def cell_name(cell: Cell, labels: Mapping[str, str]) -> str:
    """Its job's label; its coordinates when it has no job."""
    return labels[cell.job] if cell.job else " ".join(f"{axis}={value}" for axis, value in cell.coordinates.items())
