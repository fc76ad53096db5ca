"""What `pool up`, `status` and `down` print of an ssh pool's machines, a row each."""

from datetime import UTC, datetime

from infra.cluster import Cluster
from infra.pool import SshPool
from infra.upkeep import Ending, Standing
from orchestrator.report.render import Row

GIB = 2**30


def joined(pool: SshPool, cluster: Cluster) -> list[Row]:
    """After `up`: what is part of the cluster, and what it took."""
    return [
        {
            "host": name,
            "state": "failed" if name in cluster.failed else "up",
            "reason": cluster.failed.get(name, ""),
            "sent_bytes": cluster.sent_bytes(name),
        }
        for name in pool.hosts
    ]


def standing(found: Standing) -> Row:
    """How a machine is. Times are the machine's own."""
    row = {"host": found.name, "state": found.state.value, "reason": found.reason}
    if found.seen is None:
        return row
    facts, survey, head, raylet = found.seen
    ours = raylet or head
    return row | {
        "head": head.info["address"] if head else None,
        "since": datetime.fromtimestamp(ours.since, UTC).isoformat(timespec="seconds") if ours else None,
        "ray": ours.info["ray"] if ours else None,
        "python": ours.info["python"] if ours else None,
        "arch": facts.arch,
        "memory_GiB": facts.memory_bytes / GIB,
        "used_memory_GiB": survey.memory_bytes / GIB,
        "free_disk_GiB": facts.free_disk_bytes / GIB,
        "used_disk_GiB": sum(survey.folders.values()) / GIB,
    }


def ending(found: Ending) -> Row:
    """What was ended on a machine, and what stays there."""
    kept = {} if found.released else {f"{folder}_MB": size / 1e6 for folder, size in found.kept.items()}
    return {
        "host": found.name,
        "ended": ", ".join(found.ended),
        "released": found.released,
        "reason": found.trouble,
        "left_in": found.root if kept else None,
        **kept,
    }
