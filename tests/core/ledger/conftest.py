"""A ledger with hosts that say what a test has them say."""

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.events import Body, Entry, RunEnded, RunnerBegan, Samples, VisitBegan, VisitEnded
from core.failures import Kind
from core.ledger.snapshot import OpenBlock
from core.ledger.writer import EndedVisit, Enqueued, Ledger, OnChange
from core.matrix import expand

End = str | Kind


def matrix(
    seeds: Sequence[int] = (0, 1, 2),
    sleeps: Sequence[float] = (0.0,),
    blocks: int = 2,
    iters: int = 3,
    priority: int = 0,
) -> str:
    """Groups of selftest jobs, one group a `sleep_s`, whose arms are the seeds; the first seed is the reference."""
    return f"""
        [experiment]
        id = "seeds"
        goal = "Does the seed matter?"
        priority = {priority}
        [job]
        kind = "selftest"
        [axes]
        seed = {list(seeds)}
        sleep_s = {list(sleeps)}
        [baseline]
        seed = {seeds[0]}
        [measure]
        blocks = {blocks}
        iters = {iters}
    """


class Lab:
    """Drives a ledger as a controller and its hosts would. Hosts go by their names."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self.ledger = ledger
        self.path = path
        self._seq: dict[str, int] = defaultdict(int)
        self._spools: dict[str, str] = {}

    def queue(self, text: str = matrix(), code: str = "code", on_change: OnChange = OnChange.REFUSE) -> Enqueued:
        return self.ledger.enqueue(expand(text, "seeds.toml"), code, on_change)

    def blocks(self) -> tuple[OpenBlock, ...]:
        return self.ledger.snapshot().blocks

    def host(self, name: str) -> str:
        if name not in self._spools:
            self.ledger.see_host(name, name, "cpu", 4)
            self.new_spool(name, f"spool-{name}")
        return name

    def new_spool(self, host: str, spool: str) -> tuple[int, ...]:
        self._spools[host] = spool
        self._seq[spool] = self.ledger.acked(spool)
        return self.ledger.new_spool(host, spool)

    def lease(self, host: str = "h1", block: int | None = None, order: Sequence[int] | None = None) -> int:
        """A visit of the first open block, or of that one, of all its slots or of those."""
        blocks = {b.id: b for b in self.blocks()}
        chosen = blocks[block] if block is not None else next(iter(blocks.values()))
        return self.ledger.lease(chosen.id, self.host(host), order if order is not None else range(len(chosen.arms)))

    def entries(self, host: str, visit: int | None, *bodies: Body) -> list[Entry]:
        """The host's next lines."""
        spool = self._spools[self.host(host)]
        first = self._seq[spool] + 1
        self._seq[spool] += len(bodies)
        return [Entry(seq=first + i, at_ns=0, visit=visit, body=body) for i, body in enumerate(bodies)]

    def say(self, host: str, visit: int | None, *bodies: Body) -> tuple[EndedVisit, ...]:
        return self.ledger.ingest(self._spools[self.host(host)], host, self.entries(host, visit, *bodies)).ended

    def end(
        self, host: str, visit: int, ends: Mapping[int, End], state: str = "finished", kind: Kind | None = None
    ) -> EndedVisit:
        """The host measures these slots, each to its end (an outcome, or a failure's kind), and ends the visit."""
        (ended,) = self.say(host, visit, *runs(ends), VisitEnded(state=state, kind=kind))
        return ended

    def measure(self, host: str, ends: Mapping[int, End], block: int | None = None) -> EndedVisit:
        return self.end(host, self.lease(host, block), ends)

    def rows(self, sql: str, *values: object) -> list[Any]:
        """What a reader of the file sees."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            return db.execute(sql, values).fetchall()

    def decisions(self) -> list[str]:
        return [what for (what,) in self.rows("SELECT json_extract(body, '$.what') FROM event WHERE spool = 'ledger'")]


def runs(ends: Mapping[int, End], process: int = 1) -> Iterator[Body]:
    """A runner that measures these slots."""
    yield VisitBegan(sitting="sitting")
    yield RunnerBegan(process=process, pid=1, start_time=1, slots=tuple(ends))
    for slot, end in ends.items():
        if isinstance(end, Kind):
            yield RunEnded(slot=slot, outcome="failed", kind=end)
        else:
            yield Samples(slot=slot, wall_ns=(10, 30, 20))
            yield RunEnded(slot=slot, outcome=end)


def counting() -> Callable[[], int]:
    """A clock that never stands still."""
    ticks = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    return lambda: next(ticks)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    path = tmp_path / "hillclimb.db"
    with Ledger.open(path, counting()) as ledger:
        yield Lab(ledger, path)
