"""Points into jobs: what each point stands for, or why it stands for nothing."""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import ValidationError

from core.job import Job, parse_job
from core.matrix.document import Document
from core.matrix.error import MatrixError, explained
from core.matrix.points import Point, excluded, path_of, points_of
from core.matrix.revisions import Revisions
from core.matrix.tables import TABLES, nested


class Resolved(NamedTuple):
    """A point, and either its job's id or why it has none."""

    point: Point
    job: str | None
    why: str | None
    irrelevant: Mapping[str, str]  # of the job as written: field -> the choice that makes it so


def resolve(document: Document, commits: Revisions) -> tuple[list[Resolved], dict[str, Job]]:
    """Every point, and the distinct jobs by id, canonicalised, in order. Raises MatrixError."""
    points = points_of(document)
    whys = excluded(document, points)
    resolved: list[Resolved] = []
    jobs: dict[str, Job] = {}
    for index, point in enumerate(points):
        if index in whys:
            resolved.append(Resolved(point, None, f"excluded: {whys[index]}", {}))
            continue
        written = _job(document, point, commits)
        if (why := written.refusal()) is not None:
            resolved.append(Resolved(point, None, why, {}))
            continue
        identity = written.id
        if identity not in jobs:
            jobs[identity] = written.canonicalised()
        resolved.append(Resolved(point, identity, None, written.irrelevant()))
    return resolved, jobs


def _job(document: Document, point: Point, commits: Revisions) -> Job:
    fields = {"kind": document.vocabulary.kind} | nested(point.settings)
    fields["code"] = commits.get(fields["code"], fields["code"])
    try:
        return parse_job(fields)
    except ValidationError as failure:
        raise _invalid(document, point, failure) from None


def _invalid(document: Document, point: Point, failure: ValidationError) -> MatrixError:
    error = failure.errors()[0]
    field, *inner = map(str, error["loc"][1:])  # the first part is the kind
    key = ".".join([field, *inner[:1]]) if field in TABLES else field
    if error["type"] == "missing":
        section = point.include or ("job",)
        return document.places.error(section, f"{key} is missing", f"write {key} = …, or make it an axis")
    if key == "env":  # the model judges the settings together: find the one that it names
        names = (name for name in point.settings if name.startswith("env."))
        key = next(name for name in names if name.removeprefix("env.") in error["msg"])
    return document.places.error(path_of(document, point, key), *explained(error, key))
