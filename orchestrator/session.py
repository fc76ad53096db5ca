"""One controller's life: brings up a pool, drives the ledger's open blocks, lets go.

The first interrupt assigns nothing more and stops (embedded) or leaves (ray) what runs; the second ends at once. A
controller's end never cancels anything.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Mapping
from functools import cache
from time import monotonic
from typing import Any

from rich.console import Console

from core.ledger.writer import Ledger
from infra import attach
from infra.bundle import Bundle, bundle_of
from infra.pool import LocalPool, Pool, PoolError, RayPool, SshPool
from orchestrator.controller import Drive
from orchestrator.join import EXIT_BY_SIGNAL, Joined, join
from orchestrator.placing import ONE_CODE
from orchestrator.plan import Finish
from orchestrator.progress import Progress

EXIT_FAILED_JOBS = 3
EXIT_BLOCKED = 6


def check(pool: Pool) -> None:
    """Refuses a pool that cannot be driven, before anything is changed. Raises PoolError."""
    match pool:
        case LocalPool():
            pass
        case RayPool():
            attach.check(pool)
        case SshPool():
            # SSH is a heavy import
            from infra import cluster

            cluster.check(pool)


def check_revisions(pool: Pool, body: Mapping[str, Any]) -> None:
    """Refuses a `queue` request that names revisions which the pool's hosts cannot run. Raises PoolError."""
    if isinstance(pool, RayPool) and body["revisions"]:
        raise PoolError(f"code = {', '.join(body['revisions'])}: {ONE_CODE}")


def drive(ledger: Ledger, pool: Pool, scope: set[str] | None, console: Console, code: str) -> int:
    """Drives `scope` (None: everything queued) on a pool to its end. Returns the exit code.

    `code`: the code hash it was queued with, or of now. Raises PoolError, and CodeChanged when it is no longer here.
    """
    with Progress(console, monotonic) as progress:
        with join(pool, progress.say, code=code) as joined:
            finish, caught = asyncio.run(_drive(ledger, pool, joined, scope, progress, code))
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
    ledger: Ledger, pool: Pool, joined: Joined, scope: set[str] | None, progress: Progress, code: str
) -> tuple[Finish, list[signal.Signals]]:

    # commits stay what they are, and every visit asks for the same few
    @cache
    def bundles(revision: str) -> Bundle | None:
        return bundle_of(revision) if revision else joined.bundle

    drive = Drive(ledger, joined.hosts, joined.fleet, progress, code, scope, pool, bundles)
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
