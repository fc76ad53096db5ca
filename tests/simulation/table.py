"""What becomes of a simulation without one of its rules.

`python -m tests.simulation.table [RULE ...]` prints, for each rule or the ones named, what answers when it is off.
"""

import sys
from collections import Counter
from typing import NamedTuple

import pytest

from tests.simulation.rules import RULES, Rule
from tests.simulation.seeds import simulate

# In its own scenario a missing rule shows within a few seeds.
SEEDS = 60
# A waste is measured over so many, with the rule and without it.
MEASURED = 6


class Answer(NamedTuple):
    is_red: bool
    words: str


def without(rule: Rule, patch: pytest.MonkeyPatch) -> Answer:
    """An invariant, or the database, answers in the first seed that fails; a waste by more of it."""
    if rule.answer.startswith("I") or rule.answer == "refuses":
        rule.off(patch)
        return _broken(rule)
    before = _spent(rule)
    rule.off(patch)
    after = _spent(rule)
    return Answer(after > before, f"{before:.0f} -> {after:.0f} {rule.answer} in {MEASURED} seeds")


def _broken(rule: Rule) -> Answer:
    for seed in range(SEEDS):
        try:
            simulate(seed, rule.scenario)
        except Exception as error:  # noqa: BLE001 - also what the product raises is an answer
            return Answer(rule.answer in str(error), f"seed {seed}: {error}")
    return Answer(False, f"nothing in {SEEDS} seeds")


def _spent(rule: Rule) -> float:
    tally: Counter[str] = Counter()
    for seed in range(MEASURED):
        tally += simulate(seed, rule.scenario).tally
    return tally[rule.answer]


def main(names: list[str]) -> None:
    for name in names or RULES:
        with pytest.MonkeyPatch.context() as patch:
            answer = without(RULES[name], patch)
        print(f"{'red ' if answer.is_red else 'GREEN'} {name}: {answer.words[:160]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
