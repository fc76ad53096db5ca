"""How fast the readers start, and how long they take on a ledger of 10 000 runs made by the writer.

    python tests/benchmarks/readers.py [ROUNDS]

Each command is a process of its own, alternating with `python -c pass`; medians of ROUNDS (7) are printed.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from core import events as said
from core.ledger.writer import Ledger
from core.lifecycle import Arm
from core.matrix import Overrides, expand

# 2 x 8 x 8 = 128 jobs in 8 groups of 16 arms; 80 blocks of each group are 640 visits and 10 240 runs.
MATRIX = """
[experiment]
id = "large"
goal = "How long do readers take?"
jobs = 128
[job]
kind = "moe_block"
tokens = 1024
mlp_dim = 256
topk = 2
[axes]
hidden = { from = 128, to = 1024, step = 128 }
backend = ["ragged_dot", "blocked"]
experts = { from = 4, to = 32, step = 4 }
[baseline]
backend = "ragged_dot"
[measure]
blocks = 80
iters = 5
interleave = ["backend", "experts"]
"""
FACTS = {"platform": "cpu", "device_kind": "cpu", "code": "c0de"}
MAIN = "from orchestrator.cli.main import main; main()"


def make(path: Path) -> int:
    """Fills a ledger; how many runs it has."""
    rng = random.Random(1)
    runs = acked = 0
    with Ledger.open(path) as ledger:
        ledger.enqueue(expand(MATRIX, "large.toml", Overrides()), "c0de")
        ledger.see_host("h1", "m1", "cpu", 4)
        ledger.new_spool("h1", "spool")
        for block in ledger.snapshot().blocks:
            visit = ledger.lease(block.id, "h1", [arm.slot for arm in block.arms])
            entries = [
                said.Entry(seq=acked + i, at_ns=acked + i, visit=visit, body=body)
                for i, body in enumerate(lines(block.arms, rng), start=1)
            ]
            ledger.ingest("spool", "h1", entries)
            acked += len(entries)
            runs += len(block.arms)
    return runs


def lines(arms: Sequence[Arm], rng: random.Random) -> Iterator[Any]:
    """What a host says of a visit in which all goes well."""
    yield said.VisitBegan(sitting="s1")
    yield said.Environment(process=1, facts=FACTS)
    for arm in arms:
        yield said.Compiled(slot=arm.slot, program=arm.job[:16], inputs="i", lower_ns=1, compile_ns=1, cached=False)
        yield said.Metric(slot=arm.slot, name="load_cv", value=rng.random())
        yield said.Samples(slot=arm.slot, wall_ns=tuple(rng.randint(9_000_000, 11_000_000) for _ in range(5)))
        yield said.RunEnded(slot=arm.slot, outcome="ok")
    yield said.VisitEnded(state="finished")


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        small, large = Path(scratch) / "small.db", Path(scratch) / "large.db"
        Ledger.open(small).close()
        began = time.perf_counter()
        runs = make(large)
        took, size = time.perf_counter() - began, large.stat().st_size
        print(f"{runs} runs through the writer in {took:.1f} s, {size / 2**20:.1f} MiB")
        cli = [sys.executable, "-c", MAIN]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "--help": [*cli, "--help"],
            "ls (empty ledger)": [*cli, "ls", "--ledger", str(small)],
            **{
                " ".join(words): [*cli, *words, "--ledger", str(large)]
                for words in (
                    ("ls",),
                    ("ls", "large"),
                    ("table", "large", "--rows", "experts", "--cols", "backend", "--where", "hidden=128"),
                    ("table", "large", "--where", "hidden=128", "--value", "tflops"),
                    ("compare", "large"),
                    ("status", "large"),
                    ("export", "large"),
                )
            },
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
        floor = median(times["python -c pass"])
        for name, taken in times.items():
            print(f"{median(taken):6.3f} s  {median(taken) - floor:+6.3f} s  {name}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
