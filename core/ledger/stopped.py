"""Whether a process that decides for a ledger is stopped: it holds the lock and does nothing."""

import socket
from pathlib import Path

# proc_pid_stat(5): T is stopped by a signal, t by a debugger.
_STOPPED = frozenset("Tt")


def stopped_advice(pid: int, machine: str, proc: Path = Path("/proc")) -> str:
    """What to do about it; "" when it is not stopped, or runs where this machine cannot see it."""
    if machine != socket.gethostname():
        return ""
    try:
        state = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    if state not in _STOPPED:
        return ""
    # TERM would wait for the CONT that may never come
    return f"it is stopped: `kill -CONT {pid}` lets it go on, `kill -KILL {pid}` ends it and loses nothing"
