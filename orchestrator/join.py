"""A pool as long as somebody needs it: brought up or attached to, its hosts and how they are reached, let go again.

The embedded pool ends with the block; of any other only this process' connections do. Whoever handles the signals
outside the block still does when it has ended: Ray and an event loop take them for themselves.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from core.code import code_hash
from core.errors import HillclimbError
from infra import attach, local
from infra.pool import HostSpec, LocalPool, Policy, Pool, RayPool, SshPool, Unreachable
from infra.state import HOST_LOCK, state_dir
from orchestrator.placing import CODE_CHANGED
from workers.host.config import HostConfig

if TYPE_CHECKING:
    from infra.bundle import Bundle
    from orchestrator.fleet import Fleet
    from orchestrator.remote_fleet import RemoteFleet

EXIT_BY_SIGNAL = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


class CodeChanged(HillclimbError):
    """What was queued is not what the hosts would be given."""

    exit_code = 6


class Joined(NamedTuple):
    """`failed`: hosts that are not up, with the reason. `bundle`: the code that was put on the hosts, if any was."""

    hosts: list[HostSpec]
    fleet: "Fleet | RemoteFleet"
    failed: Mapping[str, str]
    bundle: "Bundle | None"


def join(pool: Pool, say: Callable[[str], None], start: bool = True, code: str = "") -> AbstractContextManager[Joined]:
    """The pool's hosts, reachable until the block ends. Nothing printed in it reaches stdout. Raises PoolError.

    `start`: bring up what is not, and find at least one host. Otherwise the block begins with what there is. `code`:
    the code hash of what hosts are to be given, if they are given any: raises CodeChanged when it is another by now.
    """
    match pool:
        case LocalPool() | RayPool():
            return _with_ray(pool, say)
        case SshPool():
            return _over_ssh(pool, say, start, code)


@contextmanager
def _with_ray(pool: LocalPool | RayPool, say: Callable[[str], None]) -> Iterator[Joined]:
    handlers = {number: signal.getsignal(number) for number in EXIT_BY_SIGNAL}
    # Ray prints its own accounts of dead workers to stdout, where answers go; ours are in the ledger
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            hosts = _up(pool, say)
            _handle(handlers)
            yield Joined(hosts, _fleet(pool, hosts), {}, None)
        finally:
            _handle(handlers)
            import ray

            ray.shutdown()


@contextmanager
def _over_ssh(pool: SshPool, say: Callable[[str], None], start: bool, code: str) -> Iterator[Joined]:
    from infra.bundle import bundle_of
    from infra.cluster import Cluster
    from orchestrator.remote_fleet import RemoteFleet

    bundle = bundle_of("")
    # both of one tree with what is installed here: the bundle's own code hash is with what it pins
    if code and code_hash() != code:
        raise CodeChanged(CODE_CHANGED)
    with closing(Cluster(pool, bundle, say)) as cluster:
        if start:
            cluster.up()
        else:
            cluster.attach()
        if start and not cluster.hosts:
            reasons = "; ".join(f"{name}: {why}" for name, why in cluster.failed.items())
            raise Unreachable(f"no host of the pool is up: {reasons}")

        def config(host: HostSpec) -> HostConfig:
            return _config(pool, host, **cluster.paths(host.name)._asdict(), preemption=pool.preemption)

        # a look leaves an actor as it is: a visit may be on its way to it
        with closing(RemoteFleet(pool, cluster, config, renew=start)) as fleet:
            # one that could not be brought up now is tried again whenever it is asked for
            yield Joined(pool.specs() if start else cluster.hosts, fleet, cluster.failed, bundle)


def _up(pool: LocalPool | RayPool, say: Callable[[str], None]) -> list[HostSpec]:
    try:
        match pool:
            case LocalPool():
                say(f"starting Ray on this machine: {pool.hosts} emulated host(s) of {pool.devices} devices")
                return local.start(pool)
            case RayPool():
                hosts = attach.attach(pool)
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


def _fleet(pool: LocalPool | RayPool, hosts: list[HostSpec]) -> "Fleet":
    from orchestrator.fleet import Fleet

    return Fleet(hosts, configs(pool, hosts))


def configs(pool: LocalPool | RayPool, hosts: Sequence[HostSpec]) -> dict[str, HostConfig]:
    """What the actors of these hosts are told, by host."""
    # an attached host may be another machine: its own home and lock, unless this one was told otherwise
    told = isinstance(pool, LocalPool) or "HILLCLIMB_STATE" in os.environ
    state = state_dir() if told else Path("~/.local/state/hillclimb")
    lock = "" if told else HOST_LOCK
    bundles = str(state / "bundles") if isinstance(pool, LocalPool) else ""
    return {h.name: _config(pool, h, str(state / "hosts" / h.name), lock, bundles) for h in hosts}


def _config(
    pool: Policy,
    host: HostSpec,
    state: str,
    lock: str = "",
    bundles: str = "",
    bundle: str = "",
    python: str = "",
    preemption: Literal["", "gce"] = "",
) -> HostConfig:
    return HostConfig(
        host=host.name,
        state=state,
        lock=lock,
        bundles=bundles,
        bundle=bundle,
        python=python,
        preemption=preemption,
        target=host.target,
        orphan_s=pool.orphan_s,
        kill_foreign=pool.kill_foreign,
        trial_s=pool.deadlines.start + pool.deadlines.init,
    )
