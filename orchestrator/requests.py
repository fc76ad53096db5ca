"""What can be asked of whoever decides for a ledger: executed here, or by the controller that holds it."""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from core.code import code_hash
from core.errors import HillclimbError
from core.ledger.errors import LedgerHeld, OlderSchema, UnknownExperiment
from core.ledger.lock import user_name
from core.ledger.queries import pick
from core.ledger.reader import open_reader
from core.ledger.requests import ask, wait_for_answer
from core.ledger.stopped import stopped_advice
from core.ledger.writer import Enqueued, Ledger, OnChange
from core.matrix import Expansion, Overrides, expand, revisions_of
from infra.bundle import bundle_of

# A controller looks for requests twice a second. One that does not answer in this time is stopped or very busy: the
# request stays where it is until it, or the next controller, gets to it.
ANSWER_S = 10.0

# How an answer begins that is an error, with its exit code.
REFUSED = re.compile(r"refused \((\d+)\): ")


class Queued(NamedTuple):
    experiment: str
    ledger: Enqueued
    sentences: tuple[str, ...]


def queue_body(text: str, place: str, overrides: Overrides, on_change: OnChange) -> dict[str, Any]:
    """The body of a `queue` request: complete, so that whoever executes it needs none of our files, and no repository.

    Raises MatrixError, and HillclimbError for a revision that is not there or cannot be run.
    """
    return {
        "text": text,
        "place": place,
        "overrides": overrides.model_dump_json(),
        "on_change": on_change.value,
        "code": code_hash(),
        "revisions": {name: _commit(name) for name in revisions_of(text, place, overrides)},
    }


def _commit(name: str) -> str:
    """The commit that a name stands for now, found to hold what runs on a host. Raises HillclimbError."""
    try:
        return bundle_of(name).revision
    except HillclimbError as error:
        raise HillclimbError(f'code = "{name}": {error}') from error


def expansion_of(body: Mapping[str, Any]) -> Expansion:
    """What a `queue` request asks for. Raises MatrixError."""
    # a request of an earlier version names none
    revisions = body.get("revisions", {})
    return expand(body["text"], body["place"], Overrides.model_validate_json(body["overrides"]), revisions)


def needs_working_tree(body: Mapping[str, Any]) -> bool:
    """Whether what a `queue` request asks for runs any code but that of commits. Raises MatrixError."""
    return any(not job.code for job in expansion_of(body).jobs)


def enqueue(ledger: Ledger, body: Mapping[str, Any]) -> Queued:
    """Queues a matrix. Raises MatrixError, SeriesChanged."""
    expansion = expansion_of(body)
    done = ledger.enqueue(expansion, body["code"], OnChange(body["on_change"]))
    parts = (_count(done.cells, "cell"), _count(done.jobs, "job"), _count(len(expansion.groups), "group"))
    what = f"{parts[0]}, {parts[1]}, {parts[2]}; series {done.ordinal}"
    left = f"{_count(done.blocks_open, 'block')} to measure" if done.blocks_open else "nothing to do"
    measured = f"{_count(done.blocks_done, 'block')} measured already, " if done.blocks_done else ""
    summary = f"{expansion.experiment}: {what}: {measured}{left}"
    return Queued(expansion.experiment, done, (*expansion.notes, *done.sentences, summary))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def find(ledger: Ledger, name: str) -> str:
    """The experiment of that id or unique prefix of one. Raises UnknownExperiment, Ambiguous."""
    known = sorted(series.experiment for series in ledger.snapshot().series.values())
    return pick("experiment", name, known, "`hillclimb ls` lists them", UnknownExperiment)


def execute(ledger: Ledger, verb: str, body: Mapping[str, Any]) -> str:
    """Does what was asked and says what was done. Raises HillclimbError."""
    match verb:
        case "queue":
            return "\n".join(enqueue(ledger, body).sentences)
        case "cancel":
            return ledger.cancel(find(ledger, body["experiment"]), body["where"])
        case "retry":
            return ledger.retry(find(ledger, body["experiment"]), body["where"])
        case "pause":
            return ledger.pause(find(ledger, body["experiment"]), body["why"])
        case "resume":
            return ledger.resume(find(ledger, body["experiment"]))
        case _:
            raise HillclimbError(f"the request {verb!r} is unknown here: bring both sides to the same version")


def answer_all(ledger: Ledger, do: Callable[[Ledger, str, Mapping[str, Any]], str] = execute) -> None:
    """Executes what other processes asked for, first asked first."""
    for request in ledger.requests():
        try:
            answer = do(ledger, request.verb, request.body)
        except HillclimbError as error:
            answer = f"refused ({error.exit_code}): {error}"
        ledger.answer(request.id, answer)


def require(path: Path) -> None:
    """Raises LedgerError when there is no ledger, so that a misspelt path does not make an empty one."""
    with suppress(OlderSchema), open_reader(path):
        pass


def decide(path: Path, verb: str, body: Mapping[str, Any]) -> str:
    """Executes at once when nobody holds the ledger, else asks its holder: durable before it is acknowledged.

    Raises HillclimbError, also for what the holder refuses. Only queueing makes a ledger.
    """
    if verb != "queue":
        require(path)
    try:
        with Ledger.open(path) as ledger:
            answer_all(ledger)
            return execute(ledger, verb, body)
    except LedgerHeld as held:
        request = ask(path, verb, body, user_name())
        answer = wait_for_answer(path, request, ANSWER_S)
        if answer is None:
            why = stopped_advice(held.pid, held.machine) or "it starts, or is busy"
            return (
                f"request {request} is stored: pid {held.pid} on {held.machine}, which drives this ledger, has not "
                f"answered within {ANSWER_S:.0f} s ({why}); it executes it later, or whoever drives next does"
            )
        if refused := REFUSED.match(answer):
            error = HillclimbError(answer[refused.end() :])
            error.exit_code = int(refused[1])
            raise error from held
        return answer
