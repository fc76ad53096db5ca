"""What the simulated researchers ask for: selftest matrices of a few groups, and what their jobs are like.

A job's nature is no field of it: the simulated host looks it up by the job's id. So good and bad jobs are alike to
everything under test.
"""

from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from core.matrix import Expansion, Overrides, expand
from infra.bundle import Bundle

# A commit, by the name that matrices give it.
REVISIONS = {"old": "0" * 40}
# What it is as a bundle: the same for every controller, as it is in a real clone.
OLD_CODE = Bundle(id="0" * 64, code="old code", revision=REVISIONS["old"], diff="", archive=b"")

MATRIX = """
[experiment]
id = "{name}"
goal = "Is anything lost?"
[job]
kind = "selftest"
[axes]
sleep_s = {groups}
seed = {arms}
code = {codes}
[baseline]
seed = 0
[measure]
interleave = ["seed", "code"]
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
    codes: tuple[str, ...] = (".",)

    @property
    def text(self) -> str:
        groups = [group + 0.5 for group in range(self.groups)]
        return MATRIX.format(
            name=self.name, groups=groups, arms=list(range(self.arms)), blocks=self.blocks, codes=list(self.codes)
        )

    def body(self, code: str) -> dict[str, Any]:
        """What `orchestrator.requests.queue_body` makes of it in a clone that has the commit."""
        return {
            "text": self.text,
            "place": f"{self.name}.toml",
            "overrides": Overrides().model_dump_json(),
            "on_change": "refuse",
            "code": code,
            "revisions": REVISIONS,
        }


@cache
def expansion(matrix: Matrix) -> Expansion:
    return expand(matrix.text, f"{matrix.name}.toml", revisions=REVISIONS)


def bundles(code: str) -> Bundle | None:
    """`orchestrator.placing.Bundles`: hosts have the working tree's code already."""
    return OLD_CODE if code else None
