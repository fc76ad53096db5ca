"""One controller's life: brings up a pool, drives the ledger's open blocks, lets go.

The first interrupt assigns nothing more and stops (embedded) or leaves (ray) what runs; the second ends at once. A
controller's end never cancels anything.
"""

import asyncio
import gc
import os
import signal
from contextlib import redirect_stdout
from pathlib import Path
from time import monotonic

from rich.console import Console

from core.code import code_hash
from core.ledger.writer import Ledger
from infra import cluster, local
from infra.pool import HostSpec, LocalPool, Pool, RayPool
from infra.state import state_dir
from orchestrator.controller import Drive
from orchestrator.plan import Finish
from orchestrator.progress import Progress
from workers.host.config import HostConfig

EXIT_FAILED_JOBS = 3
EXIT_BLOCKED = 6
EXIT_BY_SIGNAL = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def check(pool: Pool) -> None:
    """Refuses a pool that cannot be driven, before anything is changed. Raises PoolError."""
    if isinstance(pool, RayPool):
        cluster.check(pool)


def drive(ledger: Ledger, pool: Pool, scope: set[str] | None, console: Console) -> int:
    """Drives `scope` (None: everything queued) on a pool to its end. Returns the exit code. Raises PoolError."""
    # Ray prints its own accounts of dead workers to stdout, where answers go; ours are in the ledger
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), Progress(console, monotonic) as progress:
        match pool:
            case LocalPool():
                progress.say(f"starting Ray on this machine: {pool.hosts} emulated host(s) of {pool.devices} devices")
                hosts = local.start(pool)
            case RayPool():
                hosts = cluster.attach(pool)
                progress.say(f"attached to Ray at {pool.address}: {', '.join(h.name for h in hosts)}")
        try:
            finish, caught = asyncio.run(_drive(ledger, pool, hosts, scope, progress))
        finally:
            import ray

            ray.shutdown()
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
    ledger: Ledger, pool: Pool, hosts: list[HostSpec], scope: set[str] | None, progress: Progress
) -> tuple[Finish, list[signal.Signals]]:
    from orchestrator.fleet import Fleet

    # an attached host may be another machine: its own home, unless this one was told otherwise
    told = isinstance(pool, LocalPool) or "HILLCLIMB_STATE" in os.environ
    state = state_dir() if told else Path("~/.local/state/hillclimb")
    configs = {
        h.name: HostConfig(
            host=h.name,
            state=str(state / "hosts" / h.name),
            target=h.target,
            orphan_s=pool.orphan_s,
            kill_foreign=pool.kill_foreign,
        )
        for h in hosts
    }
    drive = Drive(ledger, hosts, Fleet(hosts, configs), progress, code_hash(), scope, pool)
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
