"""The descriptor a runner's events go to: one JSON line each, and nothing else on it."""

import os
from dataclasses import dataclass

from core.events import Compiled, Environment, Metric, PhaseBegan, RunEnded, Samples


@dataclass(frozen=True)
class Wire:
    """Events of one process, written whole and in order. A pipe takes a long line in parts: they follow each other."""

    fd: int

    def send(self, event: Environment | PhaseBegan | Compiled | Metric | Samples | RunEnded) -> None:
        self.write(event.model_dump_json())

    def write(self, line: str) -> None:
        """One line, which the caller vouches for. Raises BrokenPipeError when nobody reads any more."""
        left = memoryview(line.encode() + b"\n")
        while left:
            left = left[os.write(self.fd, left) :]
