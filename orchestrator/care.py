"""Asking the hosts of a pool how they are, or for what a person wants of them: all at once, each with a deadline.

A host that does not answer is told of like the others; it holds nobody up. Nothing here knows a ledger.
"""

import asyncio
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from core.errors import HillclimbError
from core.protocol import PROTOCOL, Care, Condition, Spoken, Verb
from core.visit import Deadlines
from orchestrator.transport import HostDown, HostSilent, no_answer

# An actor that has to be made first needs Ray to start a process: 1-2 s, many times that on a machine under load.
ANSWER_S = 60.0


class Reach(Protocol):
    """How a host is reached: `orchestrator.fleet.Fleet`."""

    async def ensure(self, host: str) -> None: ...

    async def care(self, host: str, text: str) -> str: ...


class Answer(NamedTuple):
    """What a host said; where it said nothing, `silence` says why.

    `left_out`: it was not asked, being no part of the pool now; `silence` says what to do about it, too.
    """

    host: str
    condition: Condition | None
    silence: str = ""
    left_out: bool = False


def chosen(names: Sequence[str], pool: Sequence[str]) -> list[str]:
    """The hosts of these names, all of the pool where none is named. Raises HillclimbError."""
    for name in names:
        if name not in pool:
            near = get_close_matches(name, pool, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise HillclimbError(f"the pool has no host {name!r}: {hint}It has {', '.join(pool)}")
    return list(dict.fromkeys(names)) or list(pool)


def patience_s(verb: Verb, deadlines: Deadlines) -> float:
    """Seconds a host has for its answer. A ladder ends in a process that starts the accelerator; its other rungs, half
    a minute together, come out of the time for the actor."""
    return ANSWER_S + (deadlines.start + deadlines.init if verb is Verb.RECOVER else 0.0)


async def ask(reach: Reach, hosts: Sequence[str], care: Care, within_s: float) -> list[Answer]:
    """Every host's answer, in the order of `hosts`."""
    return await asyncio.gather(*(_ask(reach, host, care, within_s) for host in hosts))


async def _ask(reach: Reach, host: str, care: Care, within_s: float) -> Answer:
    try:
        async with asyncio.timeout(within_s):
            await reach.ensure(host)
            said = await reach.care(host, care.model_dump_json())
    except (HostDown, HostSilent) as error:
        return Answer(host, None, str(error))
    except TimeoutError:
        return Answer(host, None, f"no answer within {within_s:g} s")
    try:
        spoken = Spoken.model_validate_json(said).protocol
        if spoken != PROTOCOL:
            return Answer(host, None, f"its actor speaks protocol {spoken}, this hillclimb {PROTOCOL}")
        return Answer(host, Condition.model_validate_json(said))
    except ValidationError as error:
        return Answer(host, None, str(no_answer(error)))
