"""The embedded pool: emulated hosts on this machine, in a Ray of our own that lives and dies with its controller."""

import logging
import os

from core.visit import Platform, Target
from infra import raylet
from infra.pool import HostSpec, LocalPool, PoolError
from infra.state import state_dir, token_file


def start(pool: LocalPool) -> list[HostSpec]:
    """Starts Ray inside this process and returns its hosts. Token authentication is on, in every process of it.

    Raises PoolError.
    """
    # niceness: or hosts, and what they run, would yield to everything else on the machine
    os.environ |= raylet.member(str(token_file(state_dir() / "local.token"))) | {"RAY_worker_niceness": "0"}
    # an address in the environment would make ray.init join that cluster
    os.environ.pop("RAY_ADDRESS", None)
    import ray

    try:
        ray.init(
            address="local",
            namespace="hillclimb",
            num_cpus=1,
            num_gpus=0,
            object_store_memory=raylet.OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as e:  # Ray: a node that needs longer than 30 s to start ends in a bare Exception
        said = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise PoolError(f"Ray did not start on this machine: {said}; try again when the machine is less busy") from e
    target = Target(platform=Platform.CPU, devices=pool.devices)
    names = ["local"] if pool.hosts == 1 else [f"local-{i}" for i in range(pool.hosts)]
    return [HostSpec(name=name, machine=os.uname().nodename, target=target, selector={}) for name in names]
