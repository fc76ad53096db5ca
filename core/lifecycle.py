"""States of blocks, visits, runs and hosts, the only legal transitions, and `settle`.

Invariant: a state changes only along an edge of TRANSITIONS; anything else raises. `settle` is the one place that
decides what an ended visit was worth. Nothing here knows a clock, a database or a network.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from core.failures import Blame, Kind, blame


class BlockState(StrEnum):
    OPEN = "open"
    ACCEPTED = "accepted"
    CLOSED = "closed"


class VisitState(StrEnum):
    LEASED = "leased"
    RUNNING = "running"
    LOST = "lost"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class Outcome(StrEnum):
    """How a run was closed. An open run has none."""

    OK = "ok"
    CHECKED = "checked"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    STOPPED = "stopped"


class HostState(StrEnum):
    UNKNOWN = "unknown"
    PROBING = "probing"
    READY = "ready"
    BUSY = "busy"
    SUSPECT = "suspect"
    RECOVERING = "recovering"
    QUARANTINED = "quarantined"
    DRAINING = "draining"
    DRAINED = "drained"
    HELD = "held"


class JobState(StrEnum):
    """Of a job in an experiment: a function of its blocks and runs."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    POISONED = "poisoned"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


State = BlockState | VisitState | HostState

OPEN_VISITS = frozenset({VisitState.LEASED, VisitState.RUNNING})

_V, _H = VisitState, HostState
_ENDED = frozenset({_V.FINISHED, _V.FAILED, _V.SUPERSEDED})
_ANYWHERE = frozenset({_H.UNKNOWN, _H.DRAINING, _H.HELD})

TRANSITIONS: Mapping[State, frozenset[State]] = {
    BlockState.OPEN: frozenset({BlockState.ACCEPTED, BlockState.CLOSED}),
    BlockState.ACCEPTED: frozenset(),
    BlockState.CLOSED: frozenset(),
    # a visit may end before its beginning was heard of
    _V.LEASED: _ENDED | {_V.RUNNING, _V.LOST, _V.CANCELLED},
    _V.RUNNING: _ENDED | {_V.LOST, _V.CANCELLED},
    # lost is a suspicion: the visit may prove alive, or its end may arrive late
    _V.LOST: _ENDED | {_V.RUNNING, _V.CANCELLED},
    _V.FINISHED: frozenset(),
    _V.FAILED: frozenset(),
    _V.CANCELLED: frozenset(),
    _V.SUPERSEDED: frozenset(),
    _H.UNKNOWN: frozenset({_H.PROBING, _H.DRAINING, _H.HELD}),
    _H.PROBING: _ANYWHERE | {_H.READY, _H.RECOVERING, _H.QUARANTINED},
    _H.READY: _ANYWHERE | {_H.BUSY, _H.SUSPECT, _H.QUARANTINED, _H.RECOVERING},
    _H.BUSY: _ANYWHERE | {_H.READY, _H.SUSPECT, _H.QUARANTINED, _H.RECOVERING},
    _H.SUSPECT: _ANYWHERE | {_H.READY},
    _H.RECOVERING: _ANYWHERE | {_H.READY, _H.QUARANTINED},
    _H.QUARANTINED: _ANYWHERE | {_H.PROBING, _H.RECOVERING},
    _H.DRAINING: frozenset({_H.DRAINED, _H.UNKNOWN}),
    _H.DRAINED: frozenset({_H.UNKNOWN}),
    _H.HELD: frozenset({_H.UNKNOWN}),
}


class IllegalTransition(Exception):
    """A state was asked to change along an edge that does not exist: a bug of ours, never a user's."""


def check(before: State, after: State) -> None:
    """Raises IllegalTransition unless `before -> after` is an edge."""
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(f"{type(before).__name__}: {before} -> {after}")


class Arm(NamedTuple):
    """A slot of a block. `reference` is the slot it is paired with; a reference is paired with itself."""

    slot: int
    job: str
    reference: int


def compared(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """What a block is measured for: the arms with a reference other than themselves, and references on their own."""
    paired = {arm.reference for arm in arms if arm.reference != arm.slot}
    return tuple(arm for arm in arms if arm.reference != arm.slot or arm.slot not in paired)


class Result(NamedTuple):
    """How a slot's run was closed."""

    outcome: Outcome
    kind: Kind | None = None


class History(NamedTuple):
    """What earlier visits of the series say about its jobs.

    `ambiguous`: job -> the hosts it failed on, ambiguously, since it last ran well.
    `failed`: the jobs that failed for good; they are not run again.
    """

    ambiguous: Mapping[str, Sequence[str]] = {}
    failed: frozenset[str] = frozenset()


class Judgement(StrEnum):
    """What a run's end means for its job."""

    GOOD = "good"
    CONDEMNED = "condemned"  # failed for good
    RETRY = "retry"  # failed in a way that one more attempt decides
    NOTHING = "nothing"  # stopped, or failed by what was not the job's fault


# The run needs no further attempt.
_FINAL = frozenset({Judgement.GOOD, Judgement.CONDEMNED})


def judge(job: str, result: Result, history: History) -> Judgement:
    """What the job's own fault is, is final at once; what may be its fault, at the second time."""
    match result.outcome:
        case Outcome.OK | Outcome.CHECKED | Outcome.UNSUPPORTED:
            return Judgement.GOOD
        case Outcome.STOPPED:
            return Judgement.NOTHING
        case Outcome.FAILED:
            match blame(failure(result)):
                case Blame.JOB:
                    return Judgement.CONDEMNED
                case Blame.AMBIGUOUS:
                    return Judgement.CONDEMNED if history.ambiguous.get(job) else Judgement.RETRY
                case Blame.HOST | Blame.NOBODY:
                    return Judgement.NOTHING


def failure(result: Result) -> Kind:
    """Why a failed run failed. One that does not say died of itself."""
    return result.kind or Kind.CRASH


def remember(history: History, host: str, runs: Sequence[tuple[str, Result]]) -> History:
    """The history after an ended visit on `host`. `runs`: the job and end of each slot that was leased.

    Who failed for good stays so: a good run that was already under way does not bring it back.
    """
    ambiguous = dict(history.ambiguous)
    failed = set(history.failed)
    for job, result in runs:
        match judge(job, result, history):
            case Judgement.GOOD:
                ambiguous.pop(job, None)
            case Judgement.CONDEMNED:
                failed.add(job)
            case Judgement.RETRY:
                ambiguous[job] = (*ambiguous.get(job, ()), host)
            case Judgement.NOTHING:
                pass
    return History(ambiguous, frozenset(failed))


class Settlement(NamedTuple):
    """What an ended visit was worth.

    accept: the block takes this visit; otherwise it is open again, at the front.
    make_up: slots to measure once more, each with its reference, in one further block. Empty unless accepted.
    condemned: job -> the kind it failed with for good in this visit.
    retry: there was an ambiguous failure, so the next attempt should be on another host.
    """

    accept: bool
    make_up: tuple[int, ...]
    condemned: Mapping[str, Kind]
    retry: bool


def settle(
    arms: Sequence[Arm], results: Mapping[int, Result], history: History, left_out: frozenset[int] = frozenset()
) -> Settlement:
    """Decide about an ended visit of a block.

    results: slot -> how its run was closed; an arm without one was not run. left_out: the slots that were not leased,
    because their jobs had failed for good or nobody needed them.

    A run is final when it ended well or by the job's own fault, or by an ambiguous fault that the job already had a
    retry for; what was left out, or has failed for good meanwhile, is final too. The visit is accepted when it made
    final the run of a reference, or of an arm whose reference is final. An arm that is still wanted and whose own or
    whose reference's run is not final goes, with its reference, to a make-up block. A block counts for an arm when both
    are ok in its accepted visit.
    """
    judged = {arm.slot: judge(arm.job, results[arm.slot], history) for arm in arms if arm.slot in results}
    condemned = {
        arm.job: failure(results[arm.slot])
        for arm in arms
        if judged.get(arm.slot) is Judgement.CONDEMNED and arm.job not in history.failed
    }
    gained = {slot for slot, judgement in judged.items() if judgement in _FINAL}
    failed = {arm.slot for arm in arms if arm.job in history.failed or arm.job in condemned}
    final = gained | failed | left_out
    accept = any(arm.slot in gained and arm.reference in final for arm in arms)
    wanted = (arm for arm in compared(arms) if arm.slot not in failed | left_out)
    lacking = {slot for arm in wanted for slot in (arm.slot, arm.reference) if not {arm.slot, arm.reference} <= final}
    return Settlement(
        accept=accept,
        make_up=tuple(sorted(lacking)) if accept else (),
        condemned=condemned,
        retry=Judgement.RETRY in judged.values(),
    )
