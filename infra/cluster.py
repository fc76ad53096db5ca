"""A Ray cluster that is already running: attached to by address, left running when the controller goes."""

import logging
import os
from pathlib import Path

from core.visit import Target
from infra.pool import HOST_LABEL, HostSpec, PoolError, RayPool


def attach(pool: RayPool) -> list[HostSpec]:
    """Joins the cluster and returns its hosts: the live nodes that carry our label. Raises PoolError."""
    token = pool.token or os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    if not token:
        raise PoolError("a ray pool needs the cluster's token: set `token` in the pool file or RAY_AUTH_TOKEN_PATH")
    if not Path(token).expanduser().is_file():
        raise PoolError(f"token = {token!r}: no such file: copy the cluster's token there, with mode 0600")
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(Path(token).expanduser()),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    import ray

    try:
        ray.init(address=pool.address, namespace="hillclimb", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as e:
        first_line = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise PoolError(f"no Ray cluster answers at {pool.address}: {first_line}") from e
    target = Target(platform=pool.platform, devices=pool.devices)
    nodes = [node for node in ray.nodes() if node["Alive"] and HOST_LABEL in node["Labels"]]
    hosts = [
        HostSpec(
            name=node["Labels"][HOST_LABEL],
            machine=node["Labels"].get("hillclimb-machine", node["NodeManagerHostname"]),
            target=target,
            selector={HOST_LABEL: node["Labels"][HOST_LABEL]},
        )
        for node in nodes
    ]
    if not hosts:
        raise PoolError(
            f"no node of the Ray cluster at {pool.address} carries the label {HOST_LABEL}: "
            f"start its raylets with `ray start --labels {HOST_LABEL}=NAME …`"
        )
    return sorted(hosts, key=lambda h: h.name)
