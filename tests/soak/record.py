"""A ledger after a soak, as plain rows: what the proofs and the summary look at."""

import json
from pathlib import Path
from typing import NamedTuple

from core.ledger.reader import open_reader


class Block(NamedTuple):
    """`queued_ns`: when its series was. `iters`: how many samples a good run has."""

    id: int
    experiment: str
    origin: str
    accepted: int | None
    closed: str | None
    queued_ns: int
    iters: int


class Visit(NamedTuple):
    id: int
    block: int
    host: str
    state: str
    kind: str | None
    leased_ns: int
    ended_ns: int | None


class Run(NamedTuple):
    id: int
    visit: int
    slot: int
    job: str
    outcome: str | None
    kind: str | None
    samples: int


class Runner(NamedTuple):
    """A runner process that the ledger has heard of. `exit_status`: as waitpid told it, None if nobody could."""

    visit: int
    process: int
    pid: int
    start_time: int
    exit_status: str | None


class Probe(NamedTuple):
    """What an idle host found when it looked."""

    host: str
    at_ns: int
    clean: bool


class Record(NamedTuple):
    blocks: tuple[Block, ...]
    visits: tuple[Visit, ...]
    runs: tuple[Run, ...]
    runners: tuple[Runner, ...]
    probes: tuple[Probe, ...]
    begun: tuple[int, ...]  # the visit of every `visit_began`
    decided: tuple[str, ...]  # what controllers decided, by name


def read(ledger: Path) -> Record:
    """All of it, of one moment."""
    with open_reader(ledger) as db:
        bodies = {
            name: [
                (visit, host, at_ns, json.loads(body))
                for visit, host, at_ns, body in db.execute(
                    "SELECT visit, host, at_ns, body FROM event WHERE event = ? ORDER BY at_ns, seq", (name,)
                )
            ]
            for name in ("visit_began", "runner_began", "runner_exited", "probed", "decided")
        }
        exits = {(visit, body["process"]): body["exit_status"] for visit, _, _, body in bodies["runner_exited"]}
        return Record(
            blocks=tuple(
                Block(*row)
                for row in db.execute(
                    "SELECT b.id, s.experiment, b.origin, b.accepted_visit, b.closed, s.queued_at_ns, "
                    "json_extract(s.measure, '$.iters') FROM block b JOIN series s ON s.id = b.series ORDER BY b.id"
                )
            ),
            visits=tuple(
                Visit(*row)
                for row in db.execute(
                    "SELECT id, block, host, state, kind, leased_at_ns, ended_at_ns FROM visit ORDER BY id"
                )
            ),
            runs=tuple(
                Run(*row)
                for row in db.execute(
                    "SELECT r.id, r.visit, r.slot, r.job, r.outcome, r.kind, "
                    "(SELECT count(*) FROM sample s WHERE s.run = r.id) FROM run r ORDER BY r.id"
                )
            ),
            runners=tuple(
                Runner(visit, body["process"], body["pid"], body["start_time"], exits.get((visit, body["process"])))
                for visit, _, _, body in bodies["runner_began"]
            ),
            probes=tuple(
                Probe(host, at_ns, body["clean"]) for visit, host, at_ns, body in bodies["probed"] if visit is None
            ),
            begun=tuple(visit for visit, _, _, _ in bodies["visit_began"]),
            decided=tuple(body["what"] for _, _, _, body in bodies["decided"]),
        )
