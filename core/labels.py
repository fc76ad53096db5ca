"""Names for people: a value as it is printed, and a job by the fields that vary in its experiment.

A label is for reading only. It is unique among the jobs it was made with, and changes when they do; the id does not.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from core.job import WORKING_TREE, Job

# Numbers need a word to say what they count; the frequent ones have a letter.
PREFIX = {"experts": "e", "tokens": "t", "hidden": "h", "mlp_dim": "m", "topk": "k"}

# What is left of the id of a commit that nothing else is known of.
_COMMIT_CHARACTERS = 12

_NO_NAMES: Mapping[str, str] = MappingProxyType({})


def printed(value: Any) -> str:
    """A value as people write it: no quotes around text, `true`, shortest digits of a float."""
    return value if isinstance(value, str) else json.dumps(value)


def labels(jobs: Sequence[Job], names: Mapping[str, str] = _NO_NAMES) -> list[str]:
    """For each job the values of the fields that vary among all, as in "blocked e16"; its kind when none varies.

    Texts that say by themselves what they are come first, then numbers with their fields' names, then entries of
    tables and the code. `names`: what people call the commits, by their ids.
    """
    fields = [_fields(job) for job in jobs]
    entries = [_entries(job) | {"code": _revision(job, names)} for job in jobs]
    varying = _varying(fields)
    # a text beside numbers does not say what it is: "all" of what?
    words = [name for name in varying if all(isinstance(values.get(name), str | None) for values in fields)]
    numbers = [name for name in varying if name not in words]
    named = sorted(_varying(entries))
    return [
        " ".join(
            [values[name] for name in words if name in values]
            + [f"{PREFIX.get(name, name + '=')}{printed(values[name])}" for name in numbers if name in values]
            + [f"{name}={own[name]}" if name in own else f"no {name}" for name in named]
        )
        or job.kind
        for job, values, own in zip(jobs, fields, entries, strict=True)
    ]


def _fields(job: Job) -> dict[str, Any]:
    """The fields that hold one value, but the code: a name says nothing by itself."""
    names = (name for name in type(job).model_fields if name != "code")
    return {name: value for name in names if not isinstance(value := getattr(job, name), dict)}


def _revision(job: Job, names: Mapping[str, str]) -> str:
    return names.get(job.code, job.code[:_COMMIT_CHARACTERS]) if job.code else WORKING_TREE


def _entries(job: Job) -> dict[str, str]:
    """What tables hold, printed: process settings under their own names, tiles as in tiles.drhs=256x1408x1024."""
    tables = [(name, value) for name in type(job).model_fields if isinstance(value := getattr(job, name), dict)]
    return {
        key if name == "env" else f"{name}.{key}": repr(value) if name == "env" else "x".join(map(printed, value))
        for name, table in tables
        for key, value in table.items()
    }


def _varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that not every row has with one and the same value, in the order they first appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if len({row.get(name) for row in rows}) > 1]
