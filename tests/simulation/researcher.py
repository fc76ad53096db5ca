"""Who owns a ledger: queues matrices, drives them, asks for things meanwhile, and starts again what was killed."""

import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from shutil import copy
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from core.ledger import schema
from core.ledger.requests import ask
from core.ledger.writer import Ledger, OnChange
from infra.pool import HostSpec
from tests.simulation.invariants import Audit
from tests.simulation.life import CODE, Life
from tests.simulation.matrices import Matrix, expansion

if TYPE_CHECKING:
    from tests.simulation.world import World

# How long a killed controller stays away, and what is paused or blocked waits for its person.
AWAY_S = (0.1, 1.0, 5.0, 20.0, 60.0)
COFFEE_S = 20.0


@cache
def empty_ledger() -> Path:
    """Made once: a copy costs less than twenty tables."""
    path = Path(mkdtemp(prefix="hillclimb-sim-empty-")) / "ledger.db"
    schema.prepare(path).dispose()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


class Researcher:
    """One ledger and its person. `finished`: what they wanted is done, or waits for nobody but them."""

    def __init__(self, world: "World", path: Path, matrices: Sequence[Matrix], hosts: Sequence[HostSpec]) -> None:
        self.world = world
        self.path = path
        self.hosts = hosts
        self.life: Life | None = None
        self.finished = False
        self.has_left = False
        self._waits = False
        self._matrices = {m.name: m for m in matrices}
        copy(empty_ledger(), path)
        with Ledger.open(path, world.wall_ns) as ledger:
            self.ledger_id = ledger.ledger_id
            for matrix in matrices:
                ledger.enqueue(expansion(matrix), CODE, OnChange.REFUSE)
        self.audit = Audit(world, path)
        self._start()

    def leave(self) -> None:
        self.has_left = self.finished = True
        if self.life is not None:
            self.life.kill("its person's going home")

    def after_step(self) -> None:
        """Sees to a controller that has ended."""
        life = self.life
        if life is None or not life.ended or life.busy:
            return
        self.life = None
        life.end()
        with self.world.judged():
            self.audit.look_at_all()
            if life.finish is not None:
                self.audit.released(life)
        if life.finish is None:
            self._start_later(self.world.random.choice(AWAY_S))
        elif life.finish.paused or life.finish.blocked:
            self.world.trace(f"{self.path.stem}: {life.finish}")
            self._start_later(COFFEE_S)
            for name in self._matrices if life.finish.paused else ():
                self._ask("resume", name)
        else:
            self.finished = True

    def _start(self) -> None:
        self._waits = False
        if self.life is None and not self.has_left:
            dies_at, stalls = (0, {}) if self.world.is_calm else self.world.schedule.mortality()
            self.life = Life(self.world, self, self.hosts, dies_at, stalls)

    def _start_later(self, delay_s: float) -> None:
        self.finished = self.has_left
        if self.life is None and not self._waits:
            self._waits = True
            self.world.later(delay_s, self._start)

    # -- what they ask for --------------------------------------------------------------------------------------------

    def ask_something(self, draw: random.Random) -> None:
        name = draw.choice(sorted(self._matrices))
        verb = draw.choice(("cancel", "cancel", "retry", "retry", "pause", "queue"))
        chosen = {"seed": str(draw.randrange(self._matrices[name].arms))} if draw.random() < 0.5 else {}
        self._ask(verb, name, **chosen)

    def _ask(self, verb: str, name: str, **where: str) -> None:
        body: dict[str, Any]
        match verb:
            case "queue":
                self._matrices[name] = grown = self._matrices[name]._replace(blocks=self._matrices[name].blocks + 1)
                body = grown.body(CODE)
            case "pause":
                body = {"experiment": name, "why": "a person asked for it"}
                # who pauses something lets it go on
                self.world.later(COFFEE_S, partial(self._ask, "resume", name))
            case "resume":
                body = {"experiment": name}
            case _:
                body = {"experiment": name, "where": where}
        request = ask(self.path, verb, body, "sim", self.world.wall_ns)
        self.audit.asked(request, verb, body)
        self.world.trace(f"{self.path.stem}: request {request}: {verb} {name} {where or ''}")
        self._start_later(1.0)
