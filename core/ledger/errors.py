"""What can be wrong with a ledger as a file, or with what is asked of it: each says which, and what to do."""

from core.errors import HillclimbError
from core.ledger.stopped import stopped_advice


class LedgerError(HillclimbError):
    """The path does not hold a ledger that this version can use."""


class OlderSchema(LedgerError):
    """A ledger of an earlier version: whoever opens it to write brings it up to date."""


class LedgerHeld(LedgerError):
    """Another controller decides for this ledger now."""

    exit_code = 6

    def __init__(self, path: object, who: str, pid: int, machine: str, since: str) -> None:
        reached = "what `queue`, `cancel`, `retry`, `pause` and `resume` ask reaches it meanwhile"
        advice = stopped_advice(pid, machine) or f"wait for its end, or end that process; {reached}"
        super().__init__(f"{path} is held by {who} (pid {pid} on {machine}, since {since}): {advice}")
        self.who = who
        self.pid = pid
        self.machine = machine
        self.since = since


class SeriesChanged(LedgerError):
    """What an experiment is measured with is not what it was measured with before. Nothing was changed."""


class UnknownExperiment(LedgerError):
    """Nothing of that name, or nothing in it that matches, is in the ledger."""

    exit_code = 5


class Refused(LedgerError):
    """A write would break what the ledger keeps. A bug of whoever asked for it: nothing was changed."""

    exit_code = 70
