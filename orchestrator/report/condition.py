"""What the `pool` commands print of a host: its state in a word, and why, in a sentence that ends in the way on."""

from enum import StrEnum

from core.protocol import Condition, Verb
from orchestrator.care import Answer
from orchestrator.report.render import Row


class Health(StrEnum):
    """What a person needs to know of a host first."""

    READY = "ready"
    BUSY = "busy"  # a visit runs
    HELD = "held"  # a controller has it and runs nothing now
    DRAINING = "draining"
    UNCLEAN = "unclean"  # a visit would fail there now
    OTHER_CODE = "other code"
    SILENT = "silent"
    NOT_UP = "not up"


# The others need a person. A host that is in use is as it should be.
IN_ORDER = frozenset({Health.READY, Health.BUSY, Health.HELD})


def health(answer: Answer, code: str) -> Health:
    """`code`: the hash that a controller started here would demand."""
    seen = answer.condition
    if seen is None:
        return Health.NOT_UP if answer.left_out else Health.SILENT
    if seen.draining:
        return Health.DRAINING
    if seen.alive:
        return Health.BUSY
    if seen.probe is not None and not seen.probe.clean:
        return Health.UNCLEAN
    if seen.facts.get("code", code) != code:
        return Health.OTHER_CODE
    return Health.HELD if seen.held else Health.READY


def is_as_asked(verb: Verb, answer: Answer, code: str) -> bool:
    """Whether the host is as the person who asked for `verb` wants it."""
    seen = answer.condition
    if seen is None or seen.refused:
        return False
    match verb:
        case Verb.CHECK:
            return health(answer, code) in IN_ORDER
        case Verb.RECOVER:
            return seen.probe is not None and seen.probe.clean
        case Verb.DRAIN:
            return bool(seen.draining)
        case Verb.RELEASE:
            return not seen.draining


def told(answer: Answer) -> list[str]:
    """What was done on the host, a line each, and why something was not."""
    if answer.condition is None:
        return []
    rungs = [f"{r.step}{'' if r.good else ', in vain'}: {r.detail}" for r in answer.condition.rungs]
    return [f"{answer.host}: {line}" for line in (*rungs, answer.condition.refused) if line]


def row(answer: Answer, code: str) -> Row:
    state = health(answer, code)
    seen = answer.condition or Condition(host=answer.host)
    facts = dict(seen.facts)
    found, free = facts.pop("code", None), facts.pop("free_disk_bytes", None)
    return {
        "host": answer.host,
        "state": state.value,
        "reason": _reason(state, answer.silence, seen),
        "free_disk_GiB": None if free is None else int(free) / 2**30,
        "same_code": None if found is None else found == code,
        **facts,
    }


def _reason(state: Health, silence: str, seen: Condition) -> str:
    match state:
        case Health.READY:
            return ""
        case Health.BUSY | Health.HELD:
            return "; ".join(filter(None, (_visits(seen), _held(seen))))
        case Health.DRAINING:
            still = f"; {_visits(seen)}" if seen.alive else ""
            return f"{seen.draining}{still}"
        case Health.UNCLEAN:
            what = seen.probe.reason if seen.probe else ""
            return f"{what}: `hillclimb pool recover {seen.host}` frees what it may"
        case Health.OTHER_CODE:
            return "its files of core and workers, or its compilers, are not ours: bring both to the same revision"
        case Health.SILENT:
            return f"{silence}: look at its raylet with `ray status`, and at the machine"
        case Health.NOT_UP:
            return silence


def _visits(seen: Condition) -> str:
    return ", ".join(
        f"visit {a.visit}, slot {'-' if a.slot is None else a.slot} in {a.phase} for {a.phase_s:.0f} s"
        for a in seen.alive
    )


def _held(seen: Condition) -> str:
    held = seen.held
    return f"held by {held.user} ({held.controller}) since {held.since}" if held else ""
