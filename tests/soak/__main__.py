"""A chaos soak: hundreds of jobs on four hosts of an attached Ray while everything is killed at random.

    python -m tests.soak [--minutes 15] [--calm-minutes 20] [--gap 5] [--seed 0]

Runners, actors, raylets and the controller are killed and stopped, a disk is filled, runners leave children behind; the
controller is started again by the same command, raylets with their label. Then the faults stop and the work must end.
What must hold then is proven from the ledger (`tests.soak.proofs`); a table says what it cost. Exit status 1 when a
proof fails: the ledger and every log are kept, and said where. Work that ends early gets more blocks until the time is
over.

A runner that is killed by a signal from nowhere may be its job's fault: the second such kill fails the job for good, by
design. Jobs that met two of our kills are proven to be so, and measured after all by `hillclimb retry`.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from core.ledger import queries, rows
from core.ledger.completeness import condemned
from core.ledger.reader import open_reader
from tests.cluster import BIN, Cluster
from tests.processes import wait_until
from tests.soak import proofs, summary
from tests.soak.driver import Driver
from tests.soak.faults import Chaos, SmallDisk
from tests.soak.matrices import BULK, MATRICES, SITECUSTOMIZE, is_bad
from tests.soak.record import read

HOSTS = ("h1", "h2", "h3", "h4")

# A target that is not there now (no visit runs, no actor is up) is there soon, or another fault is done first.
PATIENCE_S = 20.0

TICK_S = 0.1
TELL_S = 30.0

# What is killed is gone within milliseconds; what Ray leaves to end by itself, within some seconds.
GONE_S = 60.0


class Soak:
    """One soak. `root` holds all that it leaves behind."""

    def __init__(self, root: Path, rng: random.Random, gap_s: float) -> None:
        self._root = root
        self._rng = rng
        self._gap_s = gap_s
        self._ledger = root / "soak.db"
        self._blocks = 1
        self._environment: Mapping[str, str] = os.environ
        self._began = time.monotonic()

    def run(self, minutes: float, calm_minutes: float) -> list[str]:
        """Prints what it cost. Returns what does not hold."""
        logs, customs = self._root / "logs", self._root / "site"
        for folder in (logs, customs):
            folder.mkdir()
        (customs / "sitecustomize.py").write_text(SITECUSTOMIZE)
        path = os.pathsep.join([str(customs), *filter(None, [os.environ.get("PYTHONPATH")])])
        with ExitStack() as ends:
            cluster = Cluster(self._root / "ray", settings={"PYTHONPATH": path})
            ends.callback(cluster.end)
            self._environment = cluster.environment
            cluster.start(*HOSTS)
            disks = {}
            if os.geteuid() == 0:
                disks = {HOSTS[-1]: SmallDisk(cluster.state / "hosts" / HOSTS[-1])}
                ends.callback(disks[HOSTS[-1]].end)
            pool = cluster.pool_file("soak", exclusive="false", deadlines={"measure": "30.0"})
            driver = Driver(self._ledger, pool, cluster.environment, logs)
            ends.callback(driver.end)
            chaos = Chaos(self._rng, cluster, HOSTS, driver, disks)
            ends.callback(chaos.end)
            for matrix in MATRICES:
                self._hillclimb("queue", matrix.write(self._root), "--ledger", self._ledger)
            self._began = time.monotonic()
            self._rage(chaos, driver, minutes * 60)
            chaos_s = time.monotonic() - self._began
            self._tell(f"{len(chaos.fired)} faults done: the rest in peace")
            is_complete = self._finish(chaos, driver, calm_minutes * 60)
            wall_s = time.monotonic() - self._began
            poisoned = self._condemned()
            if is_complete and any(poisoned.values()):
                is_complete = self._retry(chaos, driver, poisoned, calm_minutes * 60)
            driver.end()
            chaos.end()
            (self._root / "faults.json").write_text(json.dumps(chaos.log(), indent=1))
            left = self._free(chaos, pool)
        left += self._left_over("the cluster's end")
        record, strays = read(self._ledger), len(list(customs.glob("*.stray")))
        print(
            summary.table(summary.rows(record, chaos.fired, driver.ends, poisoned, strays, chaos_s, wall_s)), flush=True
        )
        return [
            *([] if is_complete else [f"the work did not end within {calm_minutes:g} minutes of peace"]),
            *proofs.nothing_lost(record, self._cells(), {matrix.id: matrix.failing for matrix in MATRICES}),
            *proofs.nothing_twice(record),
            *proofs.samples_complete(record),
            *proofs.budgets_kept(record, poisoned, chaos.fired),
            *proofs.kinds_match(record, chaos.fired, self._faulty()),
            *proofs.faults_seen(record, chaos.fired, chaos.faults),
            *([] if strays else ["no runner left a child behind: look at the jobs of `strays`"]),
            *left,
        ]

    # -- the parts of it ----------------------------------------------------------------------------------------------

    def _rage(self, chaos: Chaos, driver: Driver, seconds: float) -> None:
        """Faults until the time is over, and work until then."""
        began = tell_at = time.monotonic()
        strike_at = began + self._gap_s
        while (now := time.monotonic()) < began + seconds:
            chaos.tend()
            if driver.tend():
                self._more_blocks()
            if now >= strike_at:
                if chaos.strike():
                    strike_at = now + self._rng.expovariate(1 / self._gap_s)
                elif now >= strike_at + PATIENCE_S:
                    chaos.postpone()
                    strike_at = now
            if now >= tell_at:
                self._tell(f"{len(chaos.fired)} faults done")
                tell_at += TELL_S
            time.sleep(TICK_S)
        chaos.stop()

    def _finish(self, chaos: Chaos, driver: Driver, seconds: float) -> bool:
        """Drives what is left. Returns whether it ended in time."""
        began = tell_at = time.monotonic()
        while not driver.tend():
            chaos.tend()
            if (now := time.monotonic()) >= began + seconds:
                return False
            if now >= tell_at:
                self._tell("no faults any more")
                tell_at += TELL_S
            time.sleep(TICK_S)
        return True

    def _retry(self, chaos: Chaos, driver: Driver, poisoned: Mapping[str, frozenset[str]], seconds: float) -> bool:
        for experiment, jobs in poisoned.items():
            if jobs:
                self._tell(f"{experiment}: {len(jobs)} jobs were twice the one whose runner was killed: once more")
                self._hillclimb("retry", experiment, "--ledger", self._ledger)
        return self._finish(chaos, driver, seconds)

    def _free(self, chaos: Chaos, pool: Path) -> list[str]:
        """Ends the actors: those that follow must end what runners have left behind. Returns what is there yet."""
        for host in HOSTS:
            if (actor := chaos.actor(host)) is not None:
                os.kill(actor, signal.SIGKILL)
        try:
            self._hillclimb("pool", "recover", "--pool", pool)
        except subprocess.CalledProcessError as error:
            return [f"`hillclimb pool recover` ended with {error.returncode}"]
        return self._left_over("its host was recovered", "workers.runner")

    # -- what it is made of -------------------------------------------------------------------------------------------

    def _hillclimb(self, *arguments: str | Path) -> str:
        """A command's stdout. Raises CalledProcessError; what it said on stderr was printed."""
        command = [BIN / "hillclimb", *arguments]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def _more_blocks(self) -> None:
        self._blocks += 1
        matrix, more = self._root / f"{BULK.id}.toml", f"measure.blocks={self._blocks}"
        self._hillclimb("queue", matrix, "--set", more, "--ledger", self._ledger)

    def _condemned(self) -> dict[str, frozenset[str]]:
        """Experiment -> the jobs that failed for good, and not by their own fault."""
        return {
            r.experiment.id: frozenset(job for job in condemned(r) if not is_bad(r.jobs[job])) for r in self._series()
        }

    def _faulty(self) -> frozenset[str]:
        """The jobs that a bad one may take with it: those of its experiment."""
        return frozenset(job for r in self._series() if any(map(is_bad, r.jobs.values())) for job in r.jobs)

    def _series(self) -> list[rows.Record]:
        with open_reader(self._ledger) as db:
            return [queries.record(db, experiment, samples=False) for experiment in queries.experiments(db)]

    def _cells(self) -> dict[str, list[dict[str, Any]]]:
        def cells(experiment: str) -> list[dict[str, Any]]:
            said = json.loads(self._hillclimb("status", experiment, "-o", "json", "--ledger", self._ledger))
            return list(said["cells"])

        return {matrix.id: cells(matrix.id) for matrix in MATRICES}

    def _left_over(self, after: str, command: str = "") -> list[str]:
        """The processes of this soak that live on, with `command` in their command line."""

        def ours() -> dict[int, str]:
            return {pid: said for pid, said in _about(self._root) if command in said}

        with suppress(AssertionError):
            wait_until(lambda: not ours(), GONE_S)
        return [f"process {pid} is there after {after}: {said[:200]}" for pid, said in ours().items()]

    def _tell(self, what: str) -> None:
        record = read(self._ledger)
        accepted = sum(block.accepted is not None for block in record.blocks)
        print(
            f"{time.monotonic() - self._began:5.0f} s  {what}; {accepted} of {len(record.blocks)} blocks are measured, "
            f"in {len(record.visits)} visits",
            file=sys.stderr,
            flush=True,
        )


def _about(root: Path) -> Iterator[tuple[int, str]]:
    """The live processes but this one whose command line or environment names a folder, and their command lines."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(root) in command + environment:
            yield int(entry.name), os.fsdecode(command.replace(b"\0", b" ")).strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Kill everything; nothing may be lost.")
    parser.add_argument("--minutes", type=float, default=15.0, help="of faults [15]")
    parser.add_argument("--calm-minutes", type=float, default=20.0, help="for the rest, without faults [20]")
    parser.add_argument("--gap", type=float, default=5.0, help="seconds between two faults, in the mean [5]")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' order, times and targets [0]")
    arguments = parser.parse_args()
    # ended by TERM too it takes everything with it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = Path(tempfile.mkdtemp(prefix="hillclimb-soak-"))
    print(f"in {root}", file=sys.stderr)
    wrong = Soak(root, random.Random(arguments.seed), arguments.gap).run(arguments.minutes, arguments.calm_minutes)
    if wrong:
        print(f"\n{len(wrong)} things do not hold; ledger and logs are in {root}", *wrong, sep="\n")
        return 1
    shutil.rmtree(root)
    print("\neverything holds: nothing lost, nothing twice, no budget spent by what was done to the hosts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
