"""`python -m orchestrator.relay`: a controller's hands on the machine of Ray's head.

A driver of Ray has to be on a node of the cluster and reach all of them; a laptop is and does neither. So this process
is the driver, and speaks with the laptop's controller over the stdin and stdout of an SSH session
(`orchestrator.relayed`). It passes calls on and decides nothing.

It can end at any instant, and does so without ceremony: what it holds, handles of actors, the next relay finds again by
name, and the actors live on. It ends when its stdin does, by SIGTERM or SIGHUP, when nobody has said anything for
SILENCE_S, since a session whose other end has vanished may never end by itself, and when Ray's head is gone, which the
next relay finds started again: Ray would have a driver wait for it as long as the pool is patient.

Two relays at once do no harm: that of a link which was cut goes on with what it was given last, perhaps long after. A
call of the protocol that comes late is answered as stale, by its order. Looking for an actor finds the one that is
there, by its name. And what is killed is the actor that this relay itself had found, never the one that has its name
by now.
"""

import asyncio
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from infra.attach import connect, find
from infra.pool import HostSpec, PoolError
from orchestrator.relayed import SILENCE_S, Answer, Ask, Do, How, Lines, Setup, Wanted, line
from orchestrator.transport import HostDown, HostSilent
from workers.host.config import HostConfig

READ_BYTES = 1 << 16

# A head that is up lets a driver in within a second, on a machine under load within ten. One that does not by now is
# asked by another relay.
CONNECT_S = 60

# The head is on this machine: its port refuses at once when nobody listens. Three times in a row is no accident, and
# sooner than a head that is started again could listen there, as another.
HEAD_S = 1.5
HEAD_MISSES = 3


class Relay:
    """Answers requests by a fleet, each when it is done. Made and used on one event loop, in the cluster."""

    def __init__(self, hosts: Sequence[HostSpec], say: Callable[[Answer], None]) -> None:
        from orchestrator.fleet import Fleet

        # what an actor is told is told with every request for one: a host may come, or be another machine, at any time
        self._configs: dict[str, HostConfig] = {}
        self._options: dict[str, dict[str, Any]] = {}
        self._fleet = Fleet(hosts, self._configs, self._options)
        self._say = say
        self._tasks: set[asyncio.Task[str]] = set()

    def take(self, ask: Ask) -> None:
        """Begins at once, in the order of the requests: an actor is discarded before another is looked for."""
        task = asyncio.create_task(self._do(ask))
        self._tasks.add(task)
        task.add_done_callback(partial(self._answer, ask.id))

    async def _do(self, ask: Ask) -> str:
        match ask.do:
            case Do.ENSURE:
                wanted = Wanted.model_validate_json(ask.text)
                self._configs[ask.host], self._options[ask.host] = wanted.config, wanted.options
                await self._fleet.ensure(ask.host, wanted.raylet, wanted.renew)
            case Do.SYNC:
                return await self._fleet.sync(ask.host, ask.text)
            case Do.CARE:
                return await self._fleet.care(ask.host, ask.text)
            case Do.DISCARD:
                self._fleet.discard(ask.host)
            case Do.REPLACE:
                return "gone" if await self._fleet.replace(ask.host) else ""
            case Do.LOSS:
                loss = await self._fleet.loss(ask.host)
                return f"{loss.kind.value} {loss.reason}" if loss else ""
            case Do.PING:
                pass
        return ""

    def _answer(self, number: int, task: asyncio.Task[str]) -> None:
        self._tasks.discard(task)
        match task.exception():
            case None:
                self._say(Answer(id=number, text=task.result()))
            case HostDown() as down:
                self._say(Answer(id=number, how=How.DOWN, text=str(down)))
            case HostSilent() as silent:
                self._say(Answer(id=number, how=How.SILENT, text=str(silent)))
            case bug:
                where = traceback.extract_tb(bug.__traceback__)[-1]
                what = traceback.format_exception_only(bug)[0].splitlines()[0]
                text = f"{what}, in {where.name}, {Path(where.filename).name} line {where.lineno}"
                self._say(Answer(id=number, how=How.BROKEN, text=text))


def main() -> None:
    # whatever else writes to stdout, Ray from Python and from C++, writes to stderr: stdout is ours alone
    stdout = os.dup(1)
    os.dup2(2, 1)
    answers = SimpleQueue[Answer]()
    threading.Thread(target=_speak, args=(stdout, answers), daemon=True).start()
    lines = _lines(0)
    setup = Setup.model_validate_json(next(lines))
    # Ray 2.60 has actors look for modules where their driver is first: that is a home, with anything in it
    os.chdir(Path(__file__).parents[1])
    signal.alarm(CONNECT_S)
    try:
        connect(setup.address, Path(setup.token))
    except PoolError as error:
        answers.put(Answer(id=0, how=How.SILENT, text=str(error)))
        for _ in lines:
            pass
    signal.alarm(0)
    # Ray's own handler would take its leave of the head, which may be gone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(setup.address,), daemon=True).start()
    asyncio.run(_serve(setup, lines, answers.put))


async def _serve(setup: Setup, lines: Iterator[bytes], say: Callable[[Answer], None]) -> None:
    relay = Relay(setup.hosts, say)
    loop = asyncio.get_running_loop()
    threading.Thread(target=_listen, args=(lines, loop, relay), daemon=True).start()
    say(Answer(id=0))
    await asyncio.Event().wait()


def _listen(lines: Iterator[bytes], loop: asyncio.AbstractEventLoop, relay: Relay) -> None:
    try:
        for text in lines:
            loop.call_soon_threadsafe(relay.take, Ask.model_validate_json(text))
    except ValueError:
        traceback.print_exc()
        os._exit(1)


def _lines(descriptor: int) -> Iterator[bytes]:
    """The controller's lines. The process ends with them. Raises ValueError for one that is too long."""
    lines = Lines()
    while select.select([descriptor], [], [], SILENCE_S)[0] and (data := os.read(descriptor, READ_BYTES)):
        yield from lines.feed(data)
    os._exit(0)


def _watch(address: str) -> None:
    misses = 0
    while misses < HEAD_MISSES:
        time.sleep(HEAD_S)
        try:
            find(address)
            misses = 0
        except PoolError:
            misses += 1
    os._exit(1)


def _speak(descriptor: int, answers: SimpleQueue[Answer]) -> None:
    """In a thread of its own: a controller that does not listen for a while holds up nobody's call."""
    with os.fdopen(descriptor, "wb") as out:
        while True:
            out.write(line(answers.get()))
            out.flush()


if __name__ == "__main__":
    main()
