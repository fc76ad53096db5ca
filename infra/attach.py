"""A Ray cluster that is already running: attached to by address, left running when the controller goes."""

import logging
import os
import socket
from pathlib import Path

from infra import accelerator, raylet
from infra.pool import HOST_LABEL, HostSpec, PoolError, RayPool, Unreachable

# A head that is up accepts a connection at once, on another continent within a second.
CONNECT_S = 5.0


def check(pool: RayPool) -> None:
    """Cheap reasons why `attach` would fail, found before anything is changed. Raises PoolError."""
    _token(pool)
    find(pool.address)


def attach(pool: RayPool) -> list[HostSpec]:
    """Joins the cluster and returns its hosts: the nodes that carry our label, also dead ones, whose raylet may come
    back with the same label at any time. Raises PoolError."""
    connect(pool.address, _token(pool))
    import ray

    target = accelerator.parse(pool.accelerator)
    # of one that came back the living node counts
    nodes = sorted(ray.nodes(), key=lambda node: bool(node["Alive"]))
    labelled = {node["Labels"][HOST_LABEL]: node for node in nodes if HOST_LABEL in node["Labels"]}
    hosts = [
        HostSpec(
            name=name,
            machine=node["Labels"].get("hillclimb-machine", node["NodeManagerHostname"]),
            target=target,
            selector={HOST_LABEL: name},
        )
        for name, node in labelled.items()
    ]
    if not hosts:
        raise PoolError(
            f"no node of the Ray cluster at {pool.address} carries the label {HOST_LABEL}: "
            f"start its raylets with `ray start --labels {HOST_LABEL}=NAME …`"
        )
    return sorted(hosts, key=lambda h: h.name)


def connect(address: str, token: Path) -> None:
    """Makes this process a driver of the cluster whose head is at `address`, with its token file. Raises PoolError."""
    # Ray looks for a head that is not there for two minutes
    find(address)
    os.environ |= raylet.member(str(token))
    import ray

    try:
        ray.init(address=address, namespace="hillclimb", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as e:
        first_line = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise Unreachable(f"no Ray cluster answers at {address}: {first_line}") from e


def find(address: str) -> None:
    """Something listens there. Raises Unreachable."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as e:
        raise Unreachable(f"nothing answers at address = {address!r} ({e}): start the cluster, or correct it") from e


def _token(pool: RayPool) -> Path:
    given = pool.token or os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if not given:
        raise PoolError("a ray pool needs the cluster's token: set `token` in the pool file or RAY_AUTH_TOKEN_PATH")
    path = Path(given).expanduser()
    if not path.is_file():
        raise PoolError(f"token = {given!r}: no such file: copy the cluster's token there, with mode 0600")
    if path.stat().st_mode & 0o077:
        raise PoolError(f"token = {given!r} can be read by others: `chmod 600 {path}`")
    return path
