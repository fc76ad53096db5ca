"""What the machines of one pool have to agree on, and may not share, before one Ray can be on them.

Each is found out by looking, and refused with the sentence that says what to change.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import ip_address

from infra.parallel import side_by_side
from infra.pool import HostSpec, PoolError
from infra.station import Ready, Station

# The name of the host whose root it is, and the mark of a pool that is to stay down: files of the root.
SIGNATURE, DOWN = "run/host", "run/down"


def refuse_twins(hosts: Sequence[HostSpec], boots: Mapping[str, str]) -> None:
    """Two hosts that say nothing of it are not one machine: they would measure each other. Raises PoolError.

    `boots`: what tells one start of a machine from all others, by the name of each host.
    """
    seen: dict[str, HostSpec] = {}
    for spec in hosts:
        other = seen.setdefault(boots[spec.name], spec)
        if other.machine != spec.machine:
            raise PoolError(
                f"hosts.{spec.name} and hosts.{other.name} are one machine (they were booted as one): leave one of "
                'them out, or, if they are containers on it, give both the same `machine = "…"`'
            )


def claim(stations: Sequence[Station], root: str) -> None:
    """Each root is one machine's: what is written there on one is not found on another. Raises PoolError.

    From here on the pool is not down any more.
    """
    # what goes wrong here is told when the host is joined
    side_by_side({station.name: partial(_sign, station) for station in stations})
    for name, said in side_by_side({station.name: partial(_signed, station) for station in stations}).items():
        if isinstance(said, str) and said != name and said in {station.name for station in stations}:
            raise PoolError(
                f"{name} and {said} have one directory as their root, {root}: set `root` to one that is on a disk of "
                "each machine's own"
            )


def refuse_unlike(host: Ready, head: Ready, head_name: str) -> None:
    """Ray would not have them in one cluster, or they would not find each other in it. Raises PoolError."""
    if host.versions != head.versions:
        raise PoolError(
            f"it has {host.versions}, the head on {head_name} {head.versions}, and they must be equal: use the same "
            "`python` on both, or leave `python` out on both"
        )
    if host.facts.arch != head.facts.arch:
        raise PoolError(
            f"it is {host.facts.arch}, the head on {head_name} {head.facts.arch}, and one Ray is of one: make a pool "
            "of each, or choose another `head`"
        )
    ours, heads = host.facts.address, head.facts.address
    if ip_address(ours).is_loopback != ip_address(heads).is_loopback:
        local, other = (head_name, heads) if ip_address(heads).is_loopback else ("it", ours)
        raise PoolError(
            f"SSH reaches {local} at {other}, where no other machine does: write an address that the pool's machines "
            "know it by"
        )


def _sign(station: Station) -> None:
    if station.agent.exists(DOWN):
        station.agent.run(["rm", "-f", station.path(DOWN)])
    if not station.agent.exists(SIGNATURE) or _signed(station) != station.name:
        station.agent.put(SIGNATURE, station.name.encode())


def _signed(station: Station) -> str:
    return station.agent.read(SIGNATURE).decode(errors="replace")
