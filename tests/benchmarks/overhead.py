"""What the orchestrator costs: `hillclimb run` on an attached Ray against the bare runner fed the same visits.

    python tests/benchmarks/overhead.py [ROUNDS]

24 jobs in 12 visits on one host. Both sides alternate and share one warm compile cache. Time is from the first visit's
start to the last visit's end; the ratio is that of the medians. Beside it: milliseconds a visit, and Ray's start.
"""

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.code import code_hash
from core.ledger.writer import Ledger
from core.visit import Target, Visit
from tests.cluster import BIN, Cluster
from workers.bench.settings import process_settings

VISITS = 12
MATRIX = """
[experiment]
id = "overhead"
goal = "What does the orchestrator cost?"
jobs = 24
[job]
kind = "moe_block"
backend = "blocked"
tokens = 2048
hidden = 256
mlp_dim = 512
experts = 8
topk = 2
dtype = "float32"
bench_pass = "forward_backward"
[axes]
seed = { from = 0, to = 11, step = 1 }
impl = ["baseline", "fused_w13"]
[baseline]
impl = "baseline"
[measure]
blocks = 1
iters = 3
warmup = 1
"""


def orchestrated(matrix: Path, ledger: Path, pool: Path) -> float:
    """Seconds from the first visit's start to the last one's end."""
    command = [BIN / "hillclimb", "run", matrix, "--ledger", ledger, "--pool", pool]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with sqlite3.connect(ledger) as db:
        (began, ended, visits) = db.execute(
            "SELECT min(at_ns), max(at_ns), count(DISTINCT visit) FROM event WHERE event LIKE 'visit_%'"
        ).fetchone()
    assert visits == VISITS, f"{visits} visits: a visit failed"
    return (ended - began) / 1e9


def visit_files(ledger: Path, folder: Path) -> list[Path]:
    """The visits of a finished ledger, as a person would hand them to the runner."""
    paths = []
    with Ledger.open(ledger) as opened:
        for number in range(1, VISITS + 1):
            visit: Visit = opened.visit(number, Target(), code_hash())
            paths.append(folder / f"{number}.json")
            paths[-1].write_text(visit.model_dump_json())
    return paths


def bare(files: list[Path], cache: Path) -> float:
    began = time.monotonic()
    for path in files:
        command = [sys.executable, "-m", "workers.runner", path, "--cache", cache]
        # as a supervisor starts it: with the visit's process settings, so that it need not start itself again
        settings = process_settings(Visit.model_validate_json(path.read_text()), os.environ)
        subprocess.run(command, check=True, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        matrix = root / "overhead.toml"
        matrix.write_text(MATRIX)
        began = time.monotonic()
        cluster = Cluster(root / "ray", head_host="h")
        pool = cluster.pool
        ray_s = time.monotonic() - began
        os.environ["HILLCLIMB_STATE"] = str(cluster.state)
        try:
            orchestrated(matrix, root / "warm.db", pool)
            files = visit_files(root / "warm.db", root)
            (cache,) = (cluster.state / "hosts").glob("*/cache")
            with_us, without = [], []
            for i in range(rounds):
                with_us.append(orchestrated(matrix, root / f"{i}.db", pool))
                without.append(bare(files, cache))
                print(f"round {i + 1}: {with_us[-1]:.2f} s with hillclimb, {without[-1]:.2f} s bare", flush=True)
        finally:
            cluster.end()
    ours, theirs = statistics.median(with_us), statistics.median(without)
    print(
        f"{ours / VISITS:.2f} s a visit; ratio of medians {ours / theirs:.4f}; "
        f"{1000 * (ours - theirs) / VISITS:.0f} ms a visit; Ray's head up in {ray_s:.1f} s"
    )


if __name__ == "__main__":
    main()
