"""Calls that arrive twice, late, and from the past: every visit begins once."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from core.protocol import Answer, Observation
from tests.faults.shell import Wire, drive
from tests.faults.trial import Trial
from workers.host.service import HostService

pytestmark = pytest.mark.slow


class Doubling(Wire):
    """Delivers every call twice, and with it one that was delivered before."""

    def __init__(self, state: Path, seed: int) -> None:
        super().__init__(state)
        self._random = random.Random(seed)
        self._past: dict[HostService, list[str]] = defaultdict(list)
        self.answers: list[Answer] = []

    async def deliver(self, service: HostService, call: str) -> str:
        reply = await service.sync(call)
        past = self._past[service]
        past.append(call)
        for again in (call, self._random.choice(past)):
            self.answers.append(Observation.model_validate_json(await service.sync(again)).answer)
        return reply


@pytest.mark.parametrize("seed", range(2))
async def test_calls_delivered_twice_and_old_ones_again_change_nothing(tmp_path: Path, seed: int) -> None:
    trial = Trial(tmp_path, {}, "", groups=2, sleep_s=0.05)
    wire = Doubling(tmp_path / "state", seed)
    finish, said = await drive(trial, wire, ["one", "two"])
    assert (finish.blocked, finish.paused) == ("", ""), said
    trial.assert_complete()
    assert set(wire.answers) == {Answer.STALE}
    assert len(wire.answers) > 2 * len(trial.visits())
    assert len(trial.visits()) == 4
