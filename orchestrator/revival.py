"""A host's raylet as seen over SSH: which one lives, and a new one where none does.

One look at a time, and not too often: looks are asked for whenever the host does not answer. One may take as long as a
connection takes to fail or a raylet to start. What is known from before is believed meanwhile, unless in doubt.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future

from core.failures import Kind
from infra.pool import PoolError
from infra.ssh import SshError
from orchestrator.aside import aside
from orchestrator.transport import HostSilent, Loss

# From the end of one look to the beginning of the next: a machine that refuses us is not pestered.
EVERY_S = 5.0

# A raylet that lives is seen within a few round trips.
WAIT_S = 3.0


class Revival:
    """Of one host. `revive` returns its living raylet (`infra.pool.RAYLET_LABEL`), in a thread; raises PoolError."""

    def __init__(self, host: str, revive: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._revive = revive
        self._clock = clock
        self._looking: Future[None] | None = None
        self._looked = float("-inf")
        self._raylet = ""
        self._in_doubt = False
        self._unreachable = ""
        self._gone = ""

    async def raylet(self) -> str:
        """The raylet that lives there, after a look. Raises HostSilent when none was ever seen."""
        in_doubt = self._in_doubt
        if in_doubt and self._looking is not None:
            # it may have looked before
            await asyncio.wait({asyncio.wrap_future(self._looking)})
        if self._looking is None or (self._looking.done() and (in_doubt or self._clock() - self._looked >= EVERY_S)):
            self._in_doubt = False
            self._looking = aside(self._look, f"look at {self._host}")
        looking = asyncio.wrap_future(self._looking)
        await asyncio.wait({looking}, timeout=WAIT_S if self._raylet and not in_doubt else None)
        if looking.done():
            looking.result()
        if not self._raylet:
            raise HostSilent(self._unreachable or self._gone)
        return self._raylet

    @property
    def loss(self) -> Loss | None:
        """What became of the host, as far as the last look tells."""
        if self._unreachable:
            return Loss(Kind.SSH_UNREACHABLE, self._unreachable)
        if self._gone:
            return Loss(Kind.RAYLET_LOST, self._gone)
        return None

    def doubt(self) -> None:
        """Its actor is dead, perhaps with its raylet: what was seen before is not believed without another look."""
        self._in_doubt = True

    def on_answer(self) -> None:
        """The host has answered a call: what was wrong with it is not any more."""
        self._unreachable = self._gone = ""

    def _look(self) -> None:
        try:
            raylet = self._revive()
        except SshError as error:
            self._unreachable = str(error)
        except PoolError as error:
            self._unreachable, self._gone = "", str(error)
        else:
            self._unreachable = ""
            if self._raylet not in {"", raylet}:
                self._gone = "its Ray node was gone: another was started"
            self._raylet = raylet
        finally:
            self._looked = self._clock()
