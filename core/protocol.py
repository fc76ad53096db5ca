"""The conversation between a controller and a host: one call, `sync(Call) -> Observation`.

The rules both sides keep (order, once, spool, ownership) stand in `workers.sync` for the host and in
`orchestrator.link` for the controller. Both travel as JSON text, so that two versions can at least read each other's
version.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

from core.events import Entry, Probed, Rung
from core.model import Frozen
from core.visit import Phase, Visit

# Grows with every change of this file or of what a host does with a call: a host of another version is replaced.
PROTOCOL = 3

# A reply carries at most this much of the spool, so that a long absence does not end in one huge message.
REPLY_BYTES = 1 << 20


class Mode(StrEnum):
    RUN = "run"
    DRAIN = "drain"  # start nothing; let the host go when nothing is left to say
    RECOVER = "recover"  # start nothing; climb the ladder once, try the disk again, look


class Controller(Frozen):
    """Who calls: shown to anyone who has to wait for them."""

    user: str
    machine: str
    pid: int


class Call(Frozen):
    protocol: int = PROTOCOL
    ledger_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$", description="names a folder on the host")]
    controller: Controller
    epoch: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    spool_id: str | None = Field(None, description="the spool `acked_seq` is about; None when not known yet")
    acked_seq: Annotated[int, Field(ge=0)] = 0
    mode: Mode = Field(Mode.RUN, strict=False)
    desired: tuple[Visit, ...] = Field((), strict=False, description="every visit the host should execute")
    wait_s: Annotated[float, Field(ge=0)] = 2.0

    @property
    def order(self) -> tuple[int, int]:
        return (self.epoch, self.generation)


class Alive(Frozen):
    """A visit the host is executing."""

    visit: int
    slot: int | None
    phase: Annotated[Phase, Field(strict=False)]
    ended_slots: int
    phase_s: float


class HostHeld(Frozen):
    """Another ledger, or another actor, owns the host."""

    user: str
    controller: str
    since: str


class Answer(StrEnum):
    """What a host did with a call."""

    OBEYED = "obeyed"
    STALE = "stale"  # an older call than one already obeyed
    OTHER_SPOOL = "other_spool"  # the call named another spool: nothing was changed, the right name is in the reply
    HELD = "held"  # another ledger owns the host
    OTHER_PROTOCOL = "other_protocol"  # the call was written by another version: nothing was changed


class Observation(Frozen):
    protocol: int = PROTOCOL
    host: str
    epoch: int
    generation: int
    answer: Answer = Field(strict=False)
    spool_id: str = ""
    entries: tuple[Entry, ...] = Field((), strict=False, description="the spool after `acked_seq`, oldest first")
    last_seq: int = Field(0, description="the spool's newest line: more is waiting when it lies beyond `entries`")
    alive: tuple[Alive, ...] = Field((), strict=False)
    probe: Probed | None = None
    held: HostHeld | None = None
    mode: Mode = Field(Mode.RUN, strict=False, description="of the newest call obeyed")
    recovering: bool = Field(False, description="the ladder of this mode is not at its end: the probe is an old one")
    draining: str = Field("", description="why the host takes no more visits")
    releases: int = Field(0, description="how often a person has put the host back into service")

    @property
    def order(self) -> tuple[int, int]:
        return (self.epoch, self.generation)


class Spoken(BaseModel):
    """As much of what any version says as it takes to know the version."""

    protocol: int


class Verb(StrEnum):
    """What a person asks of a host, whoever's ledger it obeys."""

    CHECK = "check"  # look, and say what is seen
    RECOVER = "recover"  # climb the ladder, unless a visit runs
    DRAIN = "drain"  # finish the visit that runs and take no more, for any ledger, until released
    RELEASE = "release"  # take visits again


class Care(Frozen):
    """A person's call. It changes no ledger's order and acknowledges nothing."""

    protocol: int = PROTOCOL
    verb: Verb = Field(strict=False)
    user: str
    machine: str
    why: str = ""


class Condition(Frozen):
    """How a host is, after what was asked was done."""

    protocol: int = PROTOCOL
    host: str
    probe: Probed | None = None
    held: HostHeld | None = None
    alive: tuple[Alive, ...] = Field((), strict=False)
    draining: str = ""
    rungs: tuple[Rung, ...] = Field((), strict=False)
    refused: str = Field("", description="why nothing was done, with the way on")
    facts: dict[str, str] = Field(default_factory=dict, description="platform, devices, python, ray, code, free disk …")
