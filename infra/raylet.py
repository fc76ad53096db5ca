"""How processes of Ray are started: the environment of all, the arguments of an ssh pool's head and raylets.

Pure. A pool's health checks are set slower than its hosts' patience: a node that Ray has declared dead kills its actor
and runner when the link heals. The token is named in every environment: Ray 2.60 asks for one only where it is told to.
"""

import json
import math
from collections.abc import Mapping, Sequence

from core.visit import Platform, Target
from infra.pool import HOST_LABEL, RAYLET_LABEL, HostSpec

# Said by `ray start --block` when all its processes answer.
READY = "will now block forever"
# Said by Ray when its processes need longer than its own 30 s, which they do on a busy machine.
GAVE_UP = "timed out during startup"
# A raylet takes 7-10 s on two idle cores, and Ray's own deadlines end it within two minutes on any machine.
START_S = 180.0

# Ray's smallest object store: hosts talk in short texts, and arrays never leave a runner.
OBJECT_STORE_BYTES = 80_000_000

# Ray 2.60, ray_config_def.h, health_check_period_ms: so often the head looks at a raylet. One that fails
# health_check_failure_threshold looks in a row is dead; since a look that is refused fails at once, that takes at least
# as many periods.
HEALTH_CHECK_PERIOD_S = 3.0

# A connection on which nothing sent was acknowledged for so long is given up for a new one. Ray's default is 120 s, in
# which TCP repeats itself ever more seldom: after a cut of 30 s nothing would be heard for another 30.
UNACKNOWLEDGED_S = 5.0


def member(token: str) -> dict[str, str]:
    """Environment of every process that takes part in a Ray. `token`: path of the token file there."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_grpc_client_keepalive_timeout_ms": str(round(1000 * UNACKNOWLEDGED_S)),
    }


def environment(token: str, orphan_s: float) -> dict[str, str]:
    """Of every Ray process of a pool. `token`: path of the token file there.

    `orphan_s`: how long a host works on alone. Ray waits for twice that: neither clock begins with the other.
    """
    patience_s = 2 * orphan_s
    return member(token) | {
        # or one that is to end would wait 30 s for actors that know nothing of it, and be called preempted
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # or hosts, and what they run, would yield to everything else on the machine
        "RAY_worker_niceness": "0",
        # or what Ray starts would import what lies in the home it starts in
        "PYTHONSAFEPATH": "1",
        # or an actor that asks for no accelerator, as ours does, could see none
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_health_check_failure_threshold": str(math.ceil(patience_s / HEALTH_CHECK_PERIOD_S)),
        # how long a raylet or a driver that does not reach the head tries before it ends itself; Ray's default is 60
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(math.ceil(patience_s)),
    }


def head(python: str, address: str, port: int, client_port: int, folder: str) -> list[str]:
    """A head that runs nothing: no processors, no label of a host. `folder`: for Ray's sockets and logs.

    `client_port`: of Ray's server for remote clients. Nobody calls it, but it cannot be left out where its package is
    installed, and its own 10001 is taken where two pools share a machine.
    """
    return [
        *_start(python, folder),
        *("--head", f"--node-ip-address={address}", f"--port={port}", f"--ray-client-server-port={client_port}"),
        *("--include-dashboard=false", "--num-cpus=0", "--num-gpus=0"),
    ]


def raylet(python: str, head: str, address: str, folder: str, spec: HostSpec, incarnation: str) -> list[str]:
    """`head` is HOST:PORT, `address` the host's own. `incarnation` tells this raylet from the host's others."""
    labels = labels_of(spec) | {RAYLET_LABEL: incarnation}
    return [
        *_start(python, folder),
        f"--address={head}",
        f"--node-ip-address={address}",
        f"--labels={','.join(f'{key}={value}' for key, value in labels.items())}",
        "--num-cpus=1",
        *_accelerator(spec.target),
    ]


def labels_of(spec: HostSpec) -> dict[str, str]:
    return {**spec.labels, HOST_LABEL: spec.name, "hillclimb-machine": spec.machine}


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """The keys in which two processes' settings differ, in the order they are wanted."""
    return [key for key, value in wanted.items() if found.get(key) != value]


def _start(python: str, folder: str) -> Sequence[str]:
    """A folder for each: processes that start at once in one take the same socket (Ray 2.60).

    Ports are what the machine has free: Ray's own defaults are taken where two pools share a machine. What actors print
    stays in their log files: no driver of ours shows it.
    """
    return (
        *(python, "-m", "ray.scripts.scripts", "start", "--block", f"--object-store-memory={OBJECT_STORE_BYTES}"),
        *(f"--temp-dir={folder}", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        "--include-log-monitor=false",
    )


def _accelerator(target: Target) -> list[str]:
    """What Ray says of the node to its other users; ours ask for none, since a host is pinned by its label."""
    match target.platform:
        case Platform.TPU:
            return ["--num-gpus=0", f"--resources={json.dumps({'TPU': target.devices})}"]
        case Platform.CUDA:
            return [f"--num-gpus={target.devices}"]
        case Platform.CPU:
            return ["--num-gpus=0"]
