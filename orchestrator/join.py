"""A pool as long as somebody needs it: brought up or attached to, its hosts and how they are reached, let go again.

The embedded pool ends with the block; of an attached one only this process' connection does. Whoever handles the
signals outside the block still does when it has ended: Ray and an event loop take them for themselves.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra import cluster, local
from infra.pool import HostSpec, LocalPool, Pool, RayPool
from infra.state import state_dir
from workers.host.config import HostConfig

if TYPE_CHECKING:
    from orchestrator.fleet import Fleet

EXIT_BY_SIGNAL = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


class Joined(NamedTuple):
    hosts: list[HostSpec]
    fleet: "Fleet"


@contextmanager
def join(pool: Pool, say: Callable[[str], None]) -> Iterator[Joined]:
    """The pool's hosts, reachable until the block ends. Nothing printed in it reaches stdout. Raises PoolError."""
    handlers = {number: signal.getsignal(number) for number in EXIT_BY_SIGNAL}
    # Ray prints its own accounts of dead workers to stdout, where answers go; ours are in the ledger
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            hosts = _up(pool, say)
            _handle(handlers)
            yield Joined(hosts, _fleet(pool, hosts))
        finally:
            _handle(handlers)
            import ray

            ray.shutdown()


def _up(pool: Pool, say: Callable[[str], None]) -> list[HostSpec]:
    try:
        match pool:
            case LocalPool():
                say(f"starting Ray on this machine: {pool.hosts} emulated host(s) of {pool.devices} devices")
                return local.start(pool)
            case RayPool():
                hosts = cluster.attach(pool)
                say(f"attached to Ray at {pool.address}: {', '.join(h.name for h in hosts)}")
                return hosts
    except SystemExit as end:
        # while it starts, Ray ends the process by SIGTERM with the signal's number
        if end.code == signal.SIGTERM:
            raise SystemExit(EXIT_BY_SIGNAL[signal.SIGTERM]) from end
        raise


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _fleet(pool: Pool, hosts: list[HostSpec]) -> "Fleet":
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
            trial_s=pool.deadlines.start + pool.deadlines.init,
        )
        for h in hosts
    }
    return Fleet(hosts, configs)
