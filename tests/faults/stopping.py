"""`hillclimb`, but the process stops itself (SIGSTOP) at a chosen place, as under a debugger. A program, not a module.

`python stopping.py PLACE COMMAND …`, where PLACE is one of PLACES. What is stopped there can be killed there.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from core.events import Entry, RunEnded
from core.ledger import writer
from core.ledger.transaction import Transaction
from core.ledger.writer import Ingested, Ledger
from orchestrator.cli.main import main

# ready: hosts are ready and nothing is assigned. leased: a visit is in the ledger and its host was not told. ingesting:
# the end of a run is being stored. ingested: it is stored, and its host does not know.
PLACES = ("ready", "leased", "ingesting", "ingested")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def arm(place: str) -> None:
    """Stops the process where `place` says, the first time it comes there."""
    lease, ingest, store = Ledger.lease, Ledger.ingest, writer.ingest

    def leasing(ledger: Ledger, block: int, host: str, order: Sequence[int], bundle: str) -> int:
        if place == "ready":
            stop()
        visit = lease(ledger, block, host, order, bundle)
        if place == "leased":
            stop()
        return visit

    def ends_a_run(entries: Sequence[Entry]) -> bool:
        return any(isinstance(entry.body, RunEnded) for entry in entries)

    def storing(tx: Transaction, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        stored = store(tx, spool_id, host, entries)
        if place == "ingesting" and ends_a_run(entries):
            stop()
        return stored

    def ingesting(ledger: Ledger, spool_id: str, host: str, entries: Sequence[Entry]) -> Ingested:
        stored = ingest(ledger, spool_id, host, entries)
        if place == "ingested" and ends_a_run(entries):
            stop()
        return stored

    replaced: dict[str, Any] = {"lease": leasing, "ingest": ingesting}
    for name, function in replaced.items():
        setattr(Ledger, name, function)
    writer.ingest = storing


if __name__ == "__main__":
    arm(sys.argv.pop(1))
    main()
