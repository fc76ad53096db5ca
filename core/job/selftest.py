"""The selftest: a job without JAX whose end is chosen. It serves fault tests and checks of a pool."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from core.job.base import BaseJob, Seed


class End(StrEnum):
    """How a selftest ends."""

    OK = "ok"
    EXIT = "exit"
    SIGNAL = "signal"
    HANG = "hang"
    SPIN = "spin"
    BAD_OUTPUT = "bad_output"


# What each end makes use of; bad output is written while measuring, as all output is.
_USED: Mapping[End, frozenset[str]] = {
    End.OK: frozenset(),
    End.EXIT: frozenset({"exit_code", "phase"}),
    End.SIGNAL: frozenset({"signal", "phase"}),
    End.HANG: frozenset({"phase"}),
    End.SPIN: frozenset({"phase"}),
    End.BAD_OUTPUT: frozenset(),
}


class SelftestJob(BaseJob):
    """A job without JAX whose end is chosen."""

    kind: Literal["selftest"] = "selftest"
    sleep_s: Annotated[float, Field(ge=0, le=86_400)] = Field(0.0, description="how long one iteration takes")
    end: Literal["ok", "exit", "signal", "hang", "spin", "bad_output"] = Field("ok", description="how the job ends")
    phase: Literal["inputs", "lower", "compile", "check", "warmup", "measure"] = Field(
        "measure", description="the phase it ends in"
    )
    exit_code: Annotated[int, Field(ge=0, le=255)] = Field(1, description="the exit status, for end = exit")
    signal: Annotated[int, Field(ge=1, le=64)] = Field(9, description="the signal it sends itself, for end = signal")
    seed: Seed = Field(0, description="tells otherwise equal jobs apart")

    def _irrelevant(self) -> Iterator[tuple[str, str]]:
        unused = {"exit_code", "phase", "signal"} - _USED[End(self.end)]
        return ((name, f"end = {self.end}") for name in sorted(unused))
