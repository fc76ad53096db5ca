"""What all kinds of job share: process settings, the canonical form, and the id that is a hash of it.

The canonical form is a job's kind and the fields that differ from their defaults, after every field that cannot matter
has been set back to its default. A default therefore never changes its meaning, and a field added later leaves every
old id as it is. What a field that cannot matter says changes neither the id nor whether the job is refused. Nothing
here knows what a job costs, where it runs or how it is executed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Self

from pydantic import Field, field_validator

from core.model import Frozen

# Rows are indexed with int32 on every backend, and a dimension beyond it cannot be addressed.
INT32_MAX = 2**31 - 1

Dim = Annotated[int, Field(ge=1, le=INT32_MAX)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]

# Set by the host for its accelerator, so a job that sets them would measure something else than it says.
RESERVED_ENV = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "PYTHONPATH", "PATH")

# How the working tree is written where a revision is wanted.
WORKING_TREE = "."


class BaseJob(Frozen):
    """Everything we *choose* for one measurement, and the identity that follows from the choice."""

    kind: str
    env: dict[str, str] = Field(default_factory=dict, description="process settings (environment variables)")
    code: str = Field("", description="the git revision whose code runs; . or nothing: the working tree")

    @field_validator("env")
    @classmethod
    def _env_names_are_settable(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name!r} is not a name an environment variable can have")
            if name in RESERVED_ENV:
                raise ValueError(f"{name} is set by the host and cannot be a process setting of a job")
            if "\0" in value:
                raise ValueError(f"the value of {name} holds a NUL character")
        return env

    @field_validator("code")
    @classmethod
    def _code_is_a_commit(cls, code: str) -> str:
        """A name may stand for another commit tomorrow, so a job holds none."""
        if code in ("", WORKING_TREE):
            return ""
        if not re.fullmatch(r"[0-9a-f]{40}", code):
            raise ValueError(f"{code!r} is no full commit id; a matrix may name any revision")
        return code

    def refusal(self) -> str | None:
        """Why this combination of valid fields has no meaning, or None when it has one."""
        return next(self._settled()[0]._refusals(), None)

    def irrelevant(self) -> Mapping[str, str]:
        """The fields that cannot matter, as they are -> the choice that makes them so, as in "impl = baseline".

        TABLE.NAME is one entry of a field that is a table.
        """
        return self._settled()[1]

    def canonical(self) -> dict[str, Any]:
        """The kind, and the fields that matter and differ from their defaults: what the id is a hash of."""
        settled, defaults = self._settled()[0], _defaults(type(self))
        # a required field has no default to be equal to
        chosen = {name: value for name, value in settled if name not in defaults or value != defaults[name]}
        return {"kind": self.kind} | chosen

    def canonicalised(self) -> Self:
        """This job with every field that cannot matter at its default."""
        return type(self).model_validate(self.canonical())

    @property
    def id(self) -> str:
        """64 hexadecimal digits: SHA-256 of the canonical form as JSON with sorted keys."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _refusals(self) -> Iterator[str]:
        """A sentence for every reason to refuse these fields, asked of jobs in which what cannot matter is at its
        default."""
        yield from ()

    def _irrelevant(self) -> Iterator[tuple[str, str]]:
        """The fields that these choices make irrelevant, as `irrelevant` has them."""
        yield from ()

    def _settled(self) -> tuple[Self, dict[str, str]]:
        """This job with all that cannot matter at its default, and why it cannot.

        A field that is set back may have been what made another one matter, so this goes on until nothing is found.
        """
        job, reasons = self, dict(self._irrelevant())
        while (settled := job._without(reasons)) is not job:
            job = settled
            reasons = dict(job._irrelevant()) | reasons
        return job, reasons

    def _without(self, names: Iterable[str]) -> Self:
        """This job with these fields and entries of tables at their defaults; itself when they are."""
        defaults, reset = _defaults(type(self)), dict[str, Any]()
        for name in names:
            table, dot, entry = name.partition(".")
            if not dot:
                if getattr(self, name) != defaults[name]:
                    reset[name] = defaults[name]
            elif entry in getattr(self, table):
                entries = reset.get(table, getattr(self, table))
                reset[table] = {key: value for key, value in entries.items() if key != entry}
        return self.model_copy(update=reset) if reset else self


@cache
def _defaults(model: type[BaseJob]) -> Mapping[str, Any]:
    """The default of every field that has one. Not to be edited: the tables among them are shared."""
    optional = {name: field for name, field in model.model_fields.items() if not field.is_required()}
    return {name: field.get_default(call_default_factory=True) for name, field in optional.items()}
