"""Every rule is needed: without it an invariant breaks, the database refuses, or something is wasted."""

import pytest

from tests.simulation.rules import RULES
from tests.simulation.table import without

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", RULES)
def test_simulation_without_a_rule_turns_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = without(RULES[name], monkeypatch)
    assert answer.is_red, answer.words
