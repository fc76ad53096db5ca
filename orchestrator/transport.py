"""How a call reaches a host, and the ways in which it may not.

Whoever carries calls says which of them it was, since each asks for something else: a dead actor for another one, a
silent host for patience, a link of our own that is gone for nothing at all. It knows neither Ray nor SSH nor a ledger.
"""

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from core.failures import Kind
from core.protocol import PROTOCOL, Observation, Spoken
from infra.bundle import Bundle


class HostDown(Exception):
    """The host's actor is dead: another has to be made."""


class HostSilent(Exception):
    """The host's actor cannot be reached now: it may live and work on, so it is left alone."""


class OtherVersion(Exception):
    """The host's actor speaks another protocol."""

    def __init__(self, protocol: int) -> None:
        super().__init__(f"its actor speaks protocol {protocol}, this hillclimb {PROTOCOL}")


class CutOff(Exception):
    """This controller's own way to every host is gone for now: no host was asked, so none has been silent."""


class Loss(NamedTuple):
    """What became of a host that does not answer, as far as anyone can tell."""

    kind: Kind
    reason: str


class Transport(Protocol):
    """How calls reach a host: `orchestrator.fleet.Fleet`."""

    async def ensure(self, host: str) -> None:
        """Finds the host's actor, or makes it. Raises HostDown, HostSilent."""
        ...

    async def sync(self, host: str, call: str) -> str:
        """One call of the protocol, both ways as JSON. Raises HostDown, HostSilent."""
        ...

    async def place(self, host: str, bundle: Bundle) -> None:
        """Puts a code bundle on the host, where it is not there yet. Raises HostDown, HostSilent, HillclimbError."""
        ...

    def discard(self, host: str) -> None:
        """Forgets the host's actor and frees its name."""
        ...

    async def replace(self, host: str) -> bool:
        """Ends the host's actor, which is of another version, unless somebody needs it. Returns whether it is gone.

        Raises HostDown, HostSilent.
        """
        ...

    async def loss(self, host: str) -> Loss | None:
        """What is known of the host's end; None when nothing is. Raises CutOff."""
        ...

    def reallocate(self, host: str) -> Coroutine[Any, Any, str] | None:
        """Has the pool put another machine in the host's place: "" when that is done, else what went wrong.

        None: this pool cannot.
        """
        ...


def read_answer(text: str) -> Observation:
    """Raises OtherVersion for what another version says, which may have other words in it; HostSilent for no answer."""
    try:
        return Observation.model_validate_json(text)
    except ValidationError as error:
        with suppress(ValidationError):
            spoken = Spoken.model_validate_json(text).protocol
            if spoken != PROTOCOL:
                raise OtherVersion(spoken) from None
        raise no_answer(error) from error


def no_answer(error: ValidationError) -> HostSilent:
    """For words of an actor of this version that are none of its answers."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return HostSilent(f"its actor says what is no answer ({where}: {first['msg']}): please report it")
