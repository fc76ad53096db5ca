"""A controller's end of a relay: kept up, asked, and begun anew when it is lost.

A relay is lost when its session ends, when it says what is no answer, and when it leaves pings unanswered. Then
whatever it was asked ends in HostSilent: it may have been done or not, and every request is such that either does no
harm (`orchestrator.relay`). Another relay is begun in the background.

Everything that blocks is in threads of its own (`orchestrator.aside`): one begins relays and listens, and one a relay
speaks. Of SSH it knows that a program can be begun, spoken to, listened to and closed.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import NoReturn, Protocol

from pydantic import ValidationError

from infra.pool import PoolError
from orchestrator.aside import aside, promised
from orchestrator.relayed import PING_S, Answer, Ask, Do, How, Lines, Setup, line
from orchestrator.transport import HostDown, HostSilent

READ_BYTES = 1 << 16

CLOSED = "this controller has let its relay go"

# Of what is no answer: enough to see who said it.
SHOWN_BYTES = 80

# A relay that leaves this many pings unanswered, 12 s, is lost. A link that is cut for ten seconds goes on where it
# was, which is quicker than another relay; a host counts as lost after 15 s (`orchestrator.link.LOST_S`).
PINGS = 8

# Before that, what is not answered is no host's fault: a relay that is there answers within a round trip.
LATE_PINGS = 2

# While it begins it answers none: importing Ray and joining the cluster takes 3-5 s, on a machine under load several
# times that, and what it may take at most is 60 s (`orchestrator.relay.CONNECT_S`).
BEGINNING_PINGS = 60

# Before the next one: a session that broke is replaced at once, a machine that does not answer is not pestered.
PAUSES_S = (0.0, 1.0, 2.0, 5.0)


class Process(Protocol):
    """A program that was begun: `infra.ssh.Process`. One thread sends while another receives."""

    def send(self, data: bytes) -> None:
        """Raises PoolError."""
        ...

    def receive(self, size: int, timeout_s: float) -> bytes:
        """At most `size` bytes, b"" at the end. Raises TimeoutError, PoolError."""
        ...

    @property
    def stderr(self) -> str:
        """The end of what it wrote on its error output."""
        ...

    def close(self) -> None:
        """Whoever sends or receives is woken."""
        ...


class RelayLink:
    """Asks the relay that there is at the time; the first is begun when it is waited for.

    `begin` and `setup` are called in a thread, once for every relay, may block, and raise PoolError.
    """

    def __init__(self, begin: Callable[[], Process], setup: Callable[[], Setup]) -> None:
        self._begin = begin
        self._setup = setup
        self._numbers = count(1)
        self._over = threading.Event()
        self._process: Process | None = None
        self._lock = threading.Lock()
        # done when a relay has joined the cluster; then there is an outbox
        self._up = promised(Future[None]())
        self._outbox: SimpleQueue[bytes] | None = None
        self._waiting: dict[int, Future[Answer]] = {}
        self._why = "the relay on the machine of Ray's head is being started"
        self._unanswered = 0
        self._keeper: Future[None] | None = None

    @property
    def silence(self) -> str:
        """Why no host can be asked now; "" as far as is known that they can."""
        if self._outbox is None:
            return self._why
        late = self._unanswered >= LATE_PINGS
        return f"the relay has not answered for {self._unanswered * PING_S:.0f} s" if late else ""

    async def up(self) -> None:
        """Waits for the relay that is begun, if there is none. Raises HostSilent, with the reason, when it fails."""
        with self._lock:
            up = self._up
        if self._keeper is None:
            self._keeper = aside(self._keep, "relay")
        self._check()
        await asyncio.wrap_future(up)

    async def ask(self, do: Do, host: str, text: str = "") -> str:
        """Raises HostDown, HostSilent."""
        answer = await asyncio.wrap_future(self.post(do, host, text))
        match answer.how:
            case How.SAID:
                return answer.text
            case How.DOWN:
                raise HostDown(answer.text)
            case How.SILENT:
                raise HostSilent(answer.text)
            case How.BROKEN:
                raise HostSilent(f"the relay has a bug of ours at {do} ({answer.text}): please report it")

    def post(self, do: Do, host: str, text: str = "") -> Future[Answer]:
        """Asks, and waits for nothing. Requests are begun in the order of these calls. Raises HostSilent."""
        self._check()
        with self._lock:
            if self._outbox is None:
                raise HostSilent(self._why)
            future = promised(Future[Answer]())
            number = next(self._numbers)
            self._waiting[number] = future
            self._outbox.put(line(Ask(id=number, do=do, host=host, text=text)))
        return future

    def close(self) -> None:
        """Ends the relay and begins no other. What was asked and not answered ends in HostSilent."""
        self._over.set()
        if self._process is not None:
            self._process.close()

    def _check(self) -> None:
        """The keeper ends when the link is closed, and by our own bugs."""
        if self._keeper is not None and self._keeper.done():
            self._keeper.result()

    # -- in the keeper's thread ---------------------------------------------------------------------------------------

    def _keep(self) -> None:
        attempt = 0
        try:
            while not self._over.wait(PAUSES_S[min(attempt, len(PAUSES_S) - 1)]):
                attempt += 1
                try:
                    with closing(self._begin()) as self._process:
                        self._talk(self._process)
                except PoolError as error:
                    if self._lose(f"no relay on the machine of Ray's head: {error}"):
                        attempt = 0
        finally:
            self._lose(CLOSED)
            self._up.set_exception(HostSilent(CLOSED))

    def _talk(self, process: Process) -> NoReturn:
        """Raises PoolError when the relay is lost."""
        outbox = SimpleQueue[bytes]()
        aside(partial(_speak, process, outbox), "relay's writer")
        try:
            outbox.put(line(self._setup()))
            self._listen(process, outbox)
        finally:
            outbox.put(b"")

    def _listen(self, process: Process, outbox: SimpleQueue[bytes]) -> NoReturn:
        lines = Lines()
        self._unanswered = 0
        while not self._over.is_set():
            try:
                data = process.receive(READ_BYTES, PING_S)
            except TimeoutError:
                # counted, not timed: a controller that was itself stopped has not listened for so long
                self._unanswered += 1
                if self._unanswered > (BEGINNING_PINGS if self._outbox is None else PINGS):
                    raise PoolError(f"it has not answered for {self._unanswered * PING_S:.0f} s") from None
                outbox.put(line(Ask(id=next(self._numbers), do=Do.PING)))
                continue
            if not data:
                # what one that was up wrote last is Ray's chatter
                raise PoolError(f"it has ended{f': {_last_line(process.stderr)}' if self._outbox is None else ''}")
            self._unanswered = 0
            for answer in _answers(lines, data):
                self._hear(answer, outbox)
        raise PoolError(CLOSED)

    def _hear(self, answer: Answer, outbox: SimpleQueue[bytes]) -> None:
        with self._lock:
            if answer.id == 0 and self._outbox is not None:
                raise PoolError("it said twice that it is up")
            if answer.id == 0 and answer.how is How.SAID:
                self._outbox = outbox
                self._up.set_result(None)
            elif answer.id == 0:
                raise PoolError(answer.text)
            elif future := self._waiting.pop(answer.id, None):
                future.set_result(answer)

    def _lose(self, why: str) -> bool:
        """Tells everyone who waits. Returns whether there was a relay."""
        # who is told may ask at once for the silence
        with self._lock:
            up, self._up = self._up, promised(Future[None]())
            waiting, self._waiting = self._waiting, {}
            self._outbox, self._why = None, why
        if not (was_up := up.done()):
            up.set_exception(HostSilent(why))
        for future in waiting.values():
            future.set_exception(HostSilent(why))
        return was_up


def _answers(lines: Lines, data: bytes) -> Iterator[Answer]:
    """Raises PoolError for what is none."""
    try:
        for text in lines.feed(data):
            yield Answer.model_validate_json(text)
    except ValidationError as error:
        raise PoolError(f"it said what is no answer: {text[:SHOWN_BYTES].decode(errors='replace')!r}") from error
    except ValueError as error:
        raise PoolError(f"it said what is no answer: {error}") from error


def _speak(process: Process, outbox: SimpleQueue[bytes]) -> None:
    # that it broke who listens is told as well
    with suppress(PoolError):
        while data := outbox.get():
            process.send(data)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it gave no reason"
