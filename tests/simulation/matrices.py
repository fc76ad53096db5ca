"""What the simulated researchers ask for: selftest matrices of a few groups, and what their jobs are like.

A job's nature is no field of it: the simulated host looks it up by the job's id. So good and bad jobs are alike to
everything under test.
"""

from enum import Enum
from functools import cache
from typing import NamedTuple

from core.matrix import Expansion, expand

MATRIX = """
[experiment]
id = "{name}"
goal = "Is anything lost?"
[job]
kind = "selftest"
[axes]
sleep_s = {groups}
seed = {arms}
[baseline]
seed = 0
[measure]
blocks = {blocks}
iters = 2
warmup = 0
"""


class Nature(Enum):
    """What becomes of a job wherever it runs."""

    GOOD = "good"
    WRONG = "wrong"  # its values cannot be run: the runner says so and lives on
    CRASHES = "crashes"  # takes its runner with it
    HANGS = "hangs"


class Matrix(NamedTuple):
    name: str
    groups: int
    arms: int
    blocks: int

    @property
    def text(self) -> str:
        groups = [group + 0.5 for group in range(self.groups)]
        return MATRIX.format(name=self.name, groups=groups, arms=list(range(self.arms)), blocks=self.blocks)


@cache
def expansion(matrix: Matrix) -> Expansion:
    return expand(matrix.text, f"{matrix.name}.toml")
