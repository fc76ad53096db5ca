"""Opening the spool of an actor that is gone: the visit it left unfinished is ended, in truth first, then in words."""

from collections.abc import Callable
from pathlib import Path

from core.events import HostFault, VisitEnded
from core.failures import Kind
from workers.host.process import Identity, end_survivors
from workers.host.spool import Spool


def open_spool(
    directory: Path, clock_ns: Callable[[], int], end: Callable[[Identity], list[Identity]] = end_survivors
) -> Spool:
    """The spool in `directory`, with no visit unfinished. The caller holds the host's lock.

    The runner died with its actor by PDEATHSIG; `end` makes sure of it and of what the runner had started.
    """
    spool = Spool(directory, clock_ns)
    if (unfinished := spool.unfinished) is None:
        return spool
    left = end(unfinished.runner) if unfinished.runner else []
    if left:
        pids = ", ".join(str(identity.pid) for identity in left)
        spool.append(unfinished.visit, [HostFault(fault="runner survives SIGKILL", detail=f"pids {pids}")])
    reason = f"the actor that ran visit {unfinished.visit} is gone, and its runner with it"
    spool.append(unfinished.visit, [VisitEnded(state="failed", kind=Kind.WORKER_LOST, reason=reason)])
    return spool
