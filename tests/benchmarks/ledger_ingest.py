"""Samples a second from a spool's lines on disk to rows committed, through the public writer, on a real file.

    python tests/benchmarks/ledger_ingest.py [--visits 200] [--directory .]

Every visit has 6 runs of 5 samples, 8 numbers, 6 phases, one compile and one end each. Prints one line: the rate when
each visit is a commit of its own, which the disk's flush bounds, and when a backlog comes in replies of 1 MiB.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from core.events import (
    Body,
    Compiled,
    Entry,
    Environment,
    Metric,
    PhaseBegan,
    RunEnded,
    RunnerBegan,
    Samples,
    VisitBegan,
    VisitEnded,
)
from core.failures import Kind
from core.ledger.writer import Ledger
from core.matrix import expand
from core.protocol import REPLY_BYTES
from core.visit import Phase

HOST = "h"
SPOOL = "spool"
ARMS = 6
SAMPLES = 5
METRICS = 8
SLOT_PHASES = (Phase.INPUTS, Phase.LOWER, Phase.COMPILE, Phase.CHECK, Phase.WARMUP, Phase.MEASURE)

MATRIX = """
[experiment]
id = "ingest"
goal = "How fast does the ledger take in what hosts say?"
[job]
kind = "selftest"
[axes]
seed = {{ from = 0, to = {last}, step = 1 }}
[baseline]
seed = 0
[measure]
blocks = {blocks}
"""


def _visit_events() -> Iterator[Body]:
    slots = tuple(range(ARMS))
    yield VisitBegan(sitting="bench")
    yield RunnerBegan(process=1, pid=4242, start_time=1, slots=slots)
    yield Environment(process=1, facts={"platform": "cpu", "device_count": "4", "jax": "0.10.2", "code": "bench"})
    for slot in slots:
        for phase in SLOT_PHASES:
            yield PhaseBegan(slot=slot, phase=phase)
        yield Compiled(slot=slot, program=f"p{slot}", inputs="i", lower_ns=10**8, compile_ns=10**9, cached=False)
        for number in range(METRICS):
            yield Metric(slot=slot, name=f"number_{number}", value=number / 7, scope="y")
        yield Samples(slot=slot, wall_ns=tuple(4_000_000 + i for i in range(SAMPLES)))
        yield RunEnded(slot=slot, outcome="ok")
    yield VisitEnded(state="finished")


LINES = sum(1 for _ in _visit_events())


class Timer:
    """Adds up what is timed: lines read, rows committed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.ns = self.events = self.samples = self.commits = 0

    def ingest(self, lines: list[bytes]) -> None:
        began = time.perf_counter_ns()
        entries = [Entry.model_validate_json(line) for line in lines]
        self._ledger.ingest(SPOOL, HOST, entries)
        self.ns += time.perf_counter_ns() - began
        self.commits += 1
        self.events += len(entries)
        self.samples += sum(len(entry.body.wall_ns) for entry in entries if isinstance(entry.body, Samples))

    def __str__(self) -> str:
        second = self.ns / 1e9
        return (
            f"{self.samples / second:,.0f} samples/s, {self.events / second:,.0f} events/s"
            f" ({self.commits} commits of {self.events / self.commits:,.0f} events)"
        )


def _replies(lines: list[bytes]) -> Iterator[list[bytes]]:
    """What a host that was cut off for long says, as much as fits a reply at a time."""
    size, reply = 0, list[bytes]()
    for line in lines:
        if size + len(line) > REPLY_BYTES:
            yield reply
            size, reply = 0, []
        size += len(line)
        reply.append(line)
    yield reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=200)
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="where the ledger is written: a real disk")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        spool = Path(name, "spool.jsonl")
        with Ledger.open(Path(name, "bench.db")) as ledger:
            ledger.enqueue(expand(MATRIX.format(last=ARMS - 1, blocks=2 * arguments.visits), "bench.toml"), "code")
            ledger.see_host(HOST, HOST, "cpu", 4)
            ledger.new_spool(HOST, SPOOL)
            blocks = [block.id for block in ledger.snapshot().blocks]
            with spool.open("wb") as file:
                for i, body in enumerate(body for _ in blocks for body in _visit_events()):
                    visit = i // LINES + 1  # ids only grow, so they are known before the lease
                    file.write(Entry(seq=i + 1, at_ns=i, visit=visit, body=body).model_dump_json().encode() + b"\n")
            with spool.open("rb") as file:
                live = Timer(ledger)
                for block in blocks[: arguments.visits]:
                    ledger.lease(block, HOST, range(ARMS))
                    live.ingest([file.readline() for _ in range(LINES)])
                for block in blocks[arguments.visits :]:
                    ledger.lose(ledger.lease(block, HOST, range(ARMS)), Kind.HOST_LOST, "cut off")
                late = Timer(ledger)
                for reply in _replies(file.readlines()):
                    late.ingest(reply)
    print(f"spool lines to committed rows: a visit a commit {live}; replies of 1 MiB {late}")


if __name__ == "__main__":
    main()
