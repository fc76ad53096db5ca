"""What a relay and the controller behind it say to each other: lines of JSON, in both directions.

The controller's first line is a `Setup`, answered as number 0; each further one an `Ask`, answered by one `Answer` of
its number, in any order. What the texts inside mean is the protocol's business (`core.protocol`), not this one's. Both
ends run the same code, so there are no versions. It knows neither Ray nor SSH.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from core.model import Frozen
from core.protocol import REPLY_BYTES
from infra.pool import HostSpec
from workers.host.config import HostConfig

# A host's reply is quoted once more on its way, which at worst doubles it, and is more than the events in it.
LINE_BYTES = 4 * REPLY_BYTES

# A controller that has nothing to say says so this often ...
PING_S = 1.5
# ... and one that says nothing for so long is gone: no relay is left behind where nobody will ever call.
SILENCE_S = 60.0


class Setup(Frozen):
    """The cluster to join, and every host that may come to be in it."""

    address: str
    token: str
    hosts: tuple[HostSpec, ...]


class Wanted(Frozen):
    """A host's actor. `raylet`: the one that lives there (`infra.pool.RAYLET_LABEL`). `options`: as Ray takes them.

    `renew`: whether one of another config gives way to it, when nobody needs it.
    """

    raylet: str
    config: HostConfig
    options: dict[str, Any]
    renew: bool = True


class Do(StrEnum):
    ENSURE = "ensure"  # text: `Wanted`
    SYNC = "sync"
    CARE = "care"
    DISCARD = "discard"
    REPLACE = "replace"
    LOSS = "loss"
    PING = "ping"


class Ask(Frozen):
    id: int
    do: Do
    host: str = ""
    text: str = ""


class How(StrEnum):
    SAID = "said"
    DOWN = "down"  # `orchestrator.transport.HostDown`
    SILENT = "silent"  # `orchestrator.transport.HostSilent`
    BROKEN = "broken"  # our own bug


class Answer(Frozen):
    id: int
    how: How = How.SAID
    text: str = ""


class Lines:
    """Bytes in as they come, whole lines out."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ValueError for a line of more than LINE_BYTES, ended or not."""
        *ended, begun = data.split(b"\n")
        for rest in ended:
            line = bytes(self._begun + rest)
            self._begun.clear()
            if len(line) > LINE_BYTES:
                raise ValueError(f"a line of more than {LINE_BYTES} bytes")
            yield line
        self._begun += begun
        if len(self._begun) > LINE_BYTES:
            raise ValueError(f"a line of more than {LINE_BYTES} bytes")


def line(message: Frozen) -> bytes:
    return message.model_dump_json().encode() + b"\n"
