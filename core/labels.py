"""Names for people: a value as it is printed, and a job by the fields that vary in its experiment.

A label is for reading only. It is unique among the jobs it was made with, and changes when they do; the id does not.
"""

import json
from collections.abc import Sequence
from typing import Any

from core.job import Job

# Numbers need a word to say what they count; the frequent ones have a letter.
PREFIX = {"experts": "e", "tokens": "t", "hidden": "h", "mlp_dim": "m", "topk": "k"}


def printed(value: Any) -> str:
    """A value as people write it: no quotes around text, `true`, shortest digits of a float."""
    return value if isinstance(value, str) else json.dumps(value)


def label(job: Job, jobs: Sequence[Job]) -> str:
    """The values of the fields that vary among `jobs`, as in "blocked e16"; the kind when none varies."""
    varying = {
        name: getattr(job, name)
        for name in type(job).model_fields
        if name != "env" and len({getattr(other, name, None) for other in jobs}) > 1
    }
    words = [value for value in varying.values() if isinstance(value, str)]
    numbers = [
        f"{PREFIX.get(name, name + '=')}{printed(value)}"
        for name, value in varying.items()
        if not isinstance(value, str)
    ]
    return " ".join([*words, *numbers, *_env_parts(job.env, [other.env for other in jobs])]) or job.kind


def _env_parts(env: dict[str, str], envs: Sequence[dict[str, str]]) -> list[str]:
    names = sorted({name for other in envs for name in other})
    varying = [name for name in names if len({other.get(name) for other in envs}) > 1]
    return [f"{name}={env[name]!r}" if name in env else f"no {name}" for name in varying]
