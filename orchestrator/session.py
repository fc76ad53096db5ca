"""One controller's life: brings up a pool, drives the ledger's open blocks, lets go.

The first interrupt assigns nothing more and stops (embedded) or leaves (ray) what runs; the second ends at once. A
controller's end never cancels anything.
"""

import asyncio
import gc
import os
import signal
from time import monotonic

from rich.console import Console

from core.code import code_hash
from core.ledger.writer import Ledger
from infra import cluster
from infra.pool import LocalPool, Pool, RayPool
from orchestrator.controller import Drive
from orchestrator.join import EXIT_BY_SIGNAL, Joined, join
from orchestrator.plan import Finish
from orchestrator.progress import Progress

EXIT_FAILED_JOBS = 3
EXIT_BLOCKED = 6


def check(pool: Pool) -> None:
    """Refuses a pool that cannot be driven, before anything is changed. Raises PoolError."""
    if isinstance(pool, RayPool):
        cluster.check(pool)


def drive(ledger: Ledger, pool: Pool, scope: set[str] | None, console: Console) -> int:
    """Drives `scope` (None: everything queued) on a pool to its end. Returns the exit code. Raises PoolError."""
    with Progress(console, monotonic) as progress:
        with join(pool, progress.say) as joined:
            finish, caught = asyncio.run(_drive(ledger, pool, joined, scope, progress))
        if caught:
            progress.say("interrupted: the same command goes on from here")
            return EXIT_BY_SIGNAL[caught[0]]
        for sentence in filter(None, (finish.blocked, finish.paused)):
            progress.say(sentence)
    if finish.blocked:
        return EXIT_BLOCKED
    series = ledger.snapshot().series.values()
    return EXIT_FAILED_JOBS if any(s.failed for s in series if scope is None or s.experiment in scope) else 0


async def _drive(
    ledger: Ledger, pool: Pool, joined: Joined, scope: set[str] | None, progress: Progress
) -> tuple[Finish, list[signal.Signals]]:
    drive = Drive(ledger, joined.hosts, joined.fleet, progress, code_hash(), scope, pool)
    caught: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        if caught:
            os._exit(EXIT_BY_SIGNAL[number])
        caught.append(number)
        what = "stopping what runs" if isinstance(pool, LocalPool) else "what runs goes on without this controller"
        progress.say(f"{number.name}: {what}; once more ends at once")
        drive.stop()

    # what the imports made lives as long as this process: a quarter more events a second when it is not walked
    gc.freeze()
    loop = asyncio.get_running_loop()
    for number in EXIT_BY_SIGNAL:
        loop.add_signal_handler(number, on_signal, number)
    finish = await drive.run()
    if bool(caught) == isinstance(pool, LocalPool):
        await drive.release()
    return finish, caught
