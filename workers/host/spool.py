"""The spool: what a host has to say to one ledger, on disk until the ledger has it.

One directory per ledger, `<state>/<ledger_id>/`, holding
  id        the spool's random name. While it stands, every `seq` means one line for ever
  started   the highest visit ever begun, and the order of the call that asked for it
  N.jsonl   segments: one `Entry` a line, `seq` from 1 without a gap; N is the first of them

Invariants. A line is shown to anyone only after its fsync, so a torn one was never seen and its `seq` is free again. A
visit's id is on disk before the visit starts, and none at or below the highest one is begun. Segments go when all their
lines are acknowledged, those of the unfinished visit excepted: they say which runner belongs to it.

When the disk refuses a write, lines are kept in memory and shown from there. A later actor could not know them and
would give their `seq` to other lines, so the id is unlinked, which takes no space: that actor opens another spool.

All methods that write block; one thread calls them. Reading is safe beside it. No clock of its own, no process, no
wire.
"""

import json
import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from core.events import Entry, HostFault, RunnerBegan, RunnerExited, VisitBegan, VisitEnded
from core.protocol import REPLY_BYTES
from workers.host.disk import sync_directory, write_durably
from workers.host.process import Identity

# Small enough that acknowledged lines leave the disk soon, large enough that a visit makes few files.
SEGMENT_BYTES = 1 << 20

# What becomes a folder's name. The wire checks it too; a path must not depend on that.
LEDGER_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Started(NamedTuple):
    """The highest visit ever begun and the order of the call that asked for it."""

    visit: int = 0
    epoch: int = 0
    generation: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return (self.epoch, self.generation)


class Unfinished(NamedTuple):
    """A visit that began and did not end. `runner` is the process that may still execute it."""

    visit: int
    since_seq: int
    runner: Identity | None


class _Line(NamedTuple):
    entry: Entry
    text: bytes


class _Damaged(Exception):
    """The segments are not what this code wrote."""


class Spool:
    """The spool of one ledger. Opening cuts a torn last line; `broken` says why the disk takes no more, or is empty."""

    def __init__(self, directory: Path, clock_ns: Callable[[], int], segment_bytes: int = SEGMENT_BYTES) -> None:
        if LEDGER_ID.fullmatch(directory.name) is None:
            raise ValueError(f"{directory.name!r} cannot name a ledger's folder: letters, digits, _ and - only")
        self._directory = directory
        self._clock_ns = clock_ns
        self._segment_bytes = segment_bytes
        self._mutex = threading.Lock()
        self.broken = ""
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.parent)
        on_disk = self._started = self._read_started()
        self._file: int | None = None
        self._reset()
        self._open()
        if self._started != on_disk:
            self._try(self._write_started)

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._id

    @property
    def last_seq(self) -> int:
        """The newest line that may be shown."""
        return self._shown

    @property
    def started(self) -> Started:
        return self._started

    @property
    def unfinished(self) -> Unfinished | None:
        return self._unfinished

    def may_start(self, visit: int) -> bool:
        """Start-once: a visit's id only grows, so what is at or below the highest begun one began or never will."""
        return visit > self._started.visit

    def read_after(self, seq: int, max_bytes: int = REPLY_BYTES) -> tuple[Entry, ...]:
        """The lines after `seq`, oldest first, up to `max_bytes` of them; at least one when there is one."""
        found: list[Entry] = []
        size = 0
        with self._mutex:
            for line in self._window:
                if line.entry.seq <= seq:
                    continue
                size += len(line.text)
                if found and size > max_bytes:
                    break
                found.append(line.entry)
        return tuple(found)

    # -- what changes it ----------------------------------------------------------------------------------------------

    def append(self, visit: int | None, bodies: Iterable[Any]) -> None:
        """Add events, durable when this returns unless the spool is `broken`, and show them."""
        at_ns = self._clock_ns()
        entries = [
            Entry(seq=seq, at_ns=at_ns, visit=visit, body=body) for seq, body in enumerate(bodies, self._shown + 1)
        ]
        lines = [_Line(entry, entry.model_dump_json().encode() + b"\n") for entry in entries]
        if not lines:
            return
        self._try(lambda: self._write(lines))
        if self.broken:
            self._unwritten += lines
        self._show(lines)

    def begin(self, visit: int, order: tuple[int, int], sitting: str) -> None:
        """Put on disk that `visit` starts, because of the call of this `order`. Raises ValueError at a second start."""
        if not self.may_start(visit):
            raise ValueError(f"visit {visit} cannot start: visit {self._started.visit} has started before")
        self.append(visit, [VisitBegan(sitting=sitting)])
        self._started = Started(visit, *order)
        self._try(self._write_started)

    def acknowledge(self, seq: int) -> None:
        """The ledger has every line up to `seq`: forget them."""
        with self._mutex:
            while self._window and self._window[0].entry.seq <= seq:
                self._window.popleft()
        keep_from = self._unfinished.since_seq if self._unfinished else self._shown + 1
        while len(self._segments) > 1 and self._segments[1] <= min(seq + 1, keep_from):
            self._try(self._segment(self._segments.pop(0)).unlink)

    def mend(self) -> None:
        """Try the disk again after it refused a write; `broken` tells whether it takes them now."""
        if not self.broken:
            return
        try:
            self._begin_segment(self._unwritten[0].entry.seq if self._unwritten else self._shown + 1)
            self._write(self._unwritten)
            self._unwritten.clear()
            self._write_started()
            write_durably(self._directory / "id", self._id)
        except OSError as error:
            self._break(error)
        else:
            self.broken = ""

    def renew(self, why: str) -> None:
        """Go on as another spool, because what this one holds cannot be trusted. The highest visit begun stays."""
        for segment in self._directory.glob("*.jsonl"):
            segment.replace(segment.with_suffix(".damaged"))
        self._create()
        self.append(None, [HostFault(fault="spool renewed", detail=why)])

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # -- opening ------------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self.close()
        self._segments: list[int] = []
        self._window: deque[_Line] = deque()
        self._unwritten: list[_Line] = []
        self._unfinished: Unfinished | None = None
        self._shown = 0

    def _open(self) -> None:
        try:
            self._id = (self._directory / "id").read_text()
        except FileNotFoundError:
            # New, or given up by an actor whose disk was full: what it left has lines missing.
            for segment in self._directory.glob("*.jsonl"):
                segment.unlink()
            self._create()
            return
        try:
            torn = self._load()
        except _Damaged as error:
            self.renew(str(error))
            return
        if torn:
            self.append(None, [HostFault(fault="torn spool line", detail=torn)])

    def _create(self) -> None:
        self._reset()
        self.broken = ""
        self._id = uuid.uuid4().hex
        self._try(lambda: (self._directory / "id").unlink(missing_ok=True))
        self._try(lambda: self._begin_segment(1))
        self._try(lambda: write_durably(self._directory / "id", self._id))

    def _load(self) -> str:
        """Read the segments. Returns what was cut from the last of them, in words, or "". Raises _Damaged."""
        self._segments = sorted(int(path.stem) for path in self._directory.glob("*.jsonl"))
        if not self._segments:
            raise _Damaged("the spool has an id and no segment")
        self._shown = self._segments[0] - 1
        torn = ""
        for first in self._segments:
            path = self._segment(first)
            if first != self._shown + 1:
                raise _Damaged(f"{path.name} follows line {self._shown}")
            data = path.read_bytes()
            lines, good_bytes = self._parse(data)
            if good_bytes < len(data):
                if first != self._segments[-1]:
                    raise _Damaged(f"{path.name} has an unreadable line and is not the last segment")
                torn = f"{len(data) - good_bytes} bytes after line {first + len(lines) - 1} of {path.name}"
            self._show(lines)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        if torn:
            os.ftruncate(self._file, good_bytes)
            os.fsync(self._file)
        return torn

    def _parse(self, data: bytes) -> tuple[list[_Line], int]:
        """The lines of a segment up to the first that is not the next one, and their bytes."""
        lines: list[_Line] = []
        good_bytes = 0
        for text in data.splitlines(keepends=True):
            try:
                entry = Entry.model_validate_json(text)
            except ValueError:
                break
            if not text.endswith(b"\n") or entry.seq != self._shown + len(lines) + 1:
                break
            lines.append(_Line(entry, text))
            good_bytes += len(text)
        return lines, good_bytes

    def _read_started(self) -> Started:
        path = self._directory / "started"
        try:
            return Started(**json.loads(path.read_text()))
        except FileNotFoundError:
            return Started()
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is unreadable ({error}): give the host another state directory") from error

    # -- writing ------------------------------------------------------------------------------------------------------

    def _segment(self, first: int) -> Path:
        return self._directory / f"{first:016d}.jsonl"

    def _begin_segment(self, first: int) -> None:
        self.close()
        self._file = os.open(self._segment(first), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        sync_directory(self._directory)
        if first not in self._segments:
            self._segments.append(first)

    def _write(self, lines: Sequence[_Line]) -> None:
        """Write and fsync. A refused write leaves the segment as it was. Raises OSError."""
        if not lines:
            return
        assert self._file is not None
        if os.fstat(self._file).st_size >= self._segment_bytes:
            self._begin_segment(lines[0].entry.seq)
        size = os.fstat(self._file).st_size
        try:
            left = memoryview(b"".join(line.text for line in lines))
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def _try(self, change: Callable[[], object]) -> None:
        """Do this to the disk, unless the disk takes no more: then the spool is `broken`."""
        if self.broken:
            return
        try:
            change()
        except OSError as error:
            self._break(error)

    def _write_started(self) -> None:
        write_durably(self._directory / "started", json.dumps(self._started._asdict()))

    def _break(self, error: OSError) -> None:
        self.broken = f"{self._directory} takes no more: {error.strerror}; free some space there, then recover the host"
        with suppress(OSError):
            (self._directory / "id").unlink(missing_ok=True)
            sync_directory(self._directory)

    def _show(self, lines: Sequence[_Line]) -> None:
        for line in lines:
            self._note(line.entry)
        with self._mutex:
            self._window.extend(lines)
            if lines:
                self._shown = lines[-1].entry.seq

    def _note(self, entry: Entry) -> None:
        match entry.body, self._unfinished:
            case VisitBegan(), _:
                assert entry.visit is not None
                self._unfinished = Unfinished(entry.visit, entry.seq, None)
                # The line is on disk before the file `started` is: after a crash between the two it alone knows.
                self._started = max(self._started, Started(entry.visit))
            case VisitEnded(), _:
                self._unfinished = None
            case RunnerBegan(pid=pid, start_time=start_time), Unfinished() as unfinished:
                self._unfinished = unfinished._replace(runner=Identity(pid, start_time))
            case RunnerExited(), Unfinished() as unfinished:
                self._unfinished = unfinished._replace(runner=None)
            case _:
                pass
