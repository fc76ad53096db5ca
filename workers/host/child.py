"""One runner process: its descriptors, its group, its end.

It is forked on the event loop's thread, because PDEATHSIG is tied to the thread that forked and that one lives as long
as the actor. It leads its own session and group, so that its end is the end of everything it started. The leader is
reaped last: while it is a zombie its pid names this group and no other.

It is waited for through a pidfd and not through asyncio's child watcher, which starts a thread for every child and
reaps it before the group could be killed.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from workers.host.marks import Marks
from workers.host.process import Identity, identify, stuck
from workers.host.tail import Tail

# What is in a dead runner's pipes is there at once. They stay open longer only in a process that left its group.
DRAIN_S = 1.0
_CHUNK_BYTES = 1 << 18


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader, transport


class Child:
    """A running process. Made by `spawn`; `events` are the bytes it writes to its events descriptor."""

    def __init__(
        self, process: subprocess.Popen[bytes], identity: Identity, marks: Marks, mark: dict[str, str]
    ) -> None:
        self._process = process
        self._marks = marks
        self._mark = mark
        self.identity = identity
        self.output = Tail()
        self.events: asyncio.StreamReader
        self._transports: list[asyncio.ReadTransport] = []
        self._drained: asyncio.Task[None]
        self.exited: asyncio.Future[int]

    @classmethod
    async def spawn(
        cls, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, inherit: Sequence[int], marks: Marks
    ) -> "Child":
        """Start `command`, with `--events FD` appended and the descriptors of `inherit`, marked. Raises OSError."""
        mark = marks.new()
        events_read, events_write = os.pipe()
        output_read, output_write = os.pipe()
        try:
            process = subprocess.Popen(
                [*command, "--events", str(events_write)],
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                env={**env, **mark},
                cwd=cwd,
                pass_fds=(events_write, *inherit),
                start_new_session=True,
            )
        except OSError:
            os.close(events_read)
            os.close(output_read)
            raise
        finally:
            os.close(events_write)
            os.close(output_write)
        # Ray runs its workers at nice 15; a benchmark would inherit that and yield to everything. Raising the priority
        # again takes a right that not every host grants: what came of it is a fact of the environment.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 0)
        # Ours and not reaped, so it is still there to be identified.
        identity = identify(process.pid)
        assert identity is not None
        marks.record(mark, identity)
        child = cls(process, identity, marks, mark)
        child._watch()
        child.events, events_transport = await _reader(events_read)
        output, output_transport = await _reader(output_read)
        child._transports = [events_transport, output_transport]
        child._drained = asyncio.create_task(child._keep(output))
        return child

    @property
    def returncode(self) -> int | None:
        """As `subprocess.Popen` says it; None while the process is there."""
        return self.exited.result() if self.exited.done() else None

    def give_up(self) -> str:
        """Wait no longer for a process that survives SIGKILL. Returns what it is doing. Blocking."""
        self._marks.give_up(self._mark, self.identity)
        return stuck(self.identity)

    def signal_leader(self, number: signal.Signals) -> None:
        if not self.exited.done():
            os.kill(self.identity.pid, number)

    def signal_group(self, number: signal.Signals) -> None:
        if not self.exited.done():
            os.killpg(self.identity.pid, number)

    async def drain(self, reading: asyncio.Task[None]) -> None:
        """Wait until what a process that has exited wrote is read: its output here, its events by `reading`."""
        await asyncio.wait([self._drained, reading], timeout=DRAIN_S)
        for transport in self._transports:
            transport.close()
        await self._drained
        await reading

    async def _keep(self, output: asyncio.StreamReader) -> None:
        while data := await output.read(_CHUNK_BYTES):
            self.output.feed(data)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited = loop.create_future()
        pidfd = os.pidfd_open(self.identity.pid)

        def reap() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            with suppress(ProcessLookupError):
                os.killpg(self.identity.pid, signal.SIGKILL)
            # Not Popen.wait: it calls a status that somebody else took an exit 0.
            _, status = os.waitpid(self.identity.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._marks.forget(self._mark)
            self.exited.set_result(self._process.returncode)

        loop.add_reader(pidfd, reap)
