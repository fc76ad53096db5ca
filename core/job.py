"""Jobs: everything we *choose* for one measurement, and the identity that follows from the choice.

A job's id is a hash of its canonical form: its kind, and the fields that differ from their defaults after every field
that cannot matter has been set back to its default. A default therefore never changes its meaning, and a field added
later leaves every old id as it is. Nothing here knows what a job costs, where it runs or how it is executed.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from core.model import Frozen

# Rows are indexed with int32 on every backend, and a dimension beyond it cannot be addressed.
INT32_MAX = 2**31 - 1

Dim = Annotated[int, Field(ge=1, le=INT32_MAX)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]

# Set by the host for its accelerator, so a job that sets them would measure something else than it says.
RESERVED_ENV = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "PYTHONPATH", "PATH")


class _Job(Frozen):
    """What all kinds share: process settings, canonical form and id."""

    kind: str
    env: dict[str, str] = Field(default_factory=dict, description="process settings (environment variables)")

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

    def refusal(self) -> str | None:
        """Why this combination of valid fields has no meaning, or None when it has one."""
        return None

    def irrelevant(self) -> Mapping[str, str]:
        """The fields that cannot matter -> the choice that makes them so, as in "impl = baseline"."""
        return {}

    def canonical(self) -> dict[str, Any]:
        """The kind, and the fields that matter and differ from their defaults: what the id is a hash of."""
        skip = {"kind", *self.irrelevant()}
        chosen: dict[str, Any] = {"kind": self.kind}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in skip or (not field.is_required() and value == field.get_default(call_default_factory=True)):
                continue
            chosen[name] = value
        return chosen

    def canonicalised(self) -> "Job":
        """This job with every field that cannot matter at its default."""
        return parse_job(self.canonical())

    @property
    def id(self) -> str:
        """64 hexadecimal digits: SHA-256 of the canonical form as JSON with sorted keys."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


class MoeBlockJob(_Job):
    """One Mixture-of-Experts block.

    y[t] = sum_j weight[t, j] * (silu(x[t] @ w1[e]) * (x[t] @ w3[e])) @ w2[e] with e = ids[t, j]
    """

    kind: Literal["moe_block"] = "moe_block"
    tokens: Dim = Field(description="tokens in a batch")
    hidden: Dim = Field(description="width of a token")
    mlp_dim: Dim = Field(description="width of an expert's hidden layer")
    experts: Dim = Field(description="routed experts")
    topk: Dim = Field(description="experts a token goes to")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="parameters, activations and gradients")
    init: Literal["fan_in", "unit"] = Field("fan_in", description="variance of the weights: 1 / fan-in, or 1")
    seed: Seed = Field(0, description="one x, one set of weights, one routing")
    distribution: Literal["random"] = Field("random", description="how router logits are drawn")
    backend: Literal["ragged_dot", "blocked"] = Field(description="the grouped matrix multiplication")
    impl: Literal["baseline", "fused_w13"] = Field("baseline", description="how the block is composed")
    w13_param: Literal["stored", "concat"] = Field(
        "stored", description="fused impls: w1|w3 stored as one, or joined inside the step"
    )
    bench_pass: Literal["forward", "forward_backward"] = Field("forward", description="what one timed call computes")

    def refusal(self) -> str | None:
        if self.topk > self.experts:
            return f"topk = {self.topk} is more than experts = {self.experts}: a token goes to an expert at most once"
        if self.tokens * self.topk > INT32_MAX:
            return f"tokens x topk = {self.tokens * self.topk} assignments cannot be indexed with int32"
        return None

    def irrelevant(self) -> Mapping[str, str]:
        return {} if self.impl == "fused_w13" else {"w13_param": f"impl = {self.impl}"}


class End(StrEnum):
    """How a selftest ends."""

    OK = "ok"
    EXIT = "exit"
    SIGNAL = "signal"
    HANG = "hang"
    BAD_OUTPUT = "bad_output"


# What each end makes use of; bad output is written while measuring, as all output is.
_USED: Mapping[End, frozenset[str]] = {
    End.OK: frozenset(),
    End.EXIT: frozenset({"exit_code", "phase"}),
    End.SIGNAL: frozenset({"signal", "phase"}),
    End.HANG: frozenset({"phase"}),
    End.BAD_OUTPUT: frozenset(),
}


class SelftestJob(_Job):
    """A job without JAX whose end is chosen: it serves fault tests and checks of a pool."""

    kind: Literal["selftest"] = "selftest"
    sleep_s: Annotated[float, Field(ge=0, le=86_400)] = Field(0.0, description="how long one iteration takes")
    end: Literal["ok", "exit", "signal", "hang", "bad_output"] = Field("ok", description="how the job ends")
    phase: Literal["inputs", "lower", "compile", "check", "warmup", "measure"] = Field(
        "measure", description="the phase it ends in"
    )
    exit_code: Annotated[int, Field(ge=0, le=255)] = Field(1, description="the exit status, for end = exit")
    signal: Annotated[int, Field(ge=1, le=64)] = Field(9, description="the signal it sends itself, for end = signal")
    seed: Seed = Field(0, description="tells otherwise equal jobs apart")

    def irrelevant(self) -> Mapping[str, str]:
        unused = {"exit_code", "phase", "signal"} - _USED[End(self.end)]
        return dict.fromkeys(sorted(unused), f"end = {self.end}")


Job = MoeBlockJob | SelftestJob
KINDS: dict[str, type[MoeBlockJob] | type[SelftestJob]] = {"moe_block": MoeBlockJob, "selftest": SelftestJob}
JobSpec = Annotated[Job, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Job] = TypeAdapter(JobSpec)


def parse_job(fields: dict[str, Any]) -> Job:
    """The job these fields describe. Raises pydantic.ValidationError."""
    return _ADAPTER.validate_python(fields)
