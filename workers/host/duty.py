"""Whether a host is on duty, which a person decides: taken out of service by whom and why; put back how often.

Two files in the host's state directory, which outlive its actor and are read by every actor of the host: a person may
speak to another one than the controller does.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from core.model import Frozen
from core.protocol import Care
from workers.host.disk import sync_directory, write_durably


class Duty(NamedTuple):
    """`drained`: why the host takes no visits, or "". `releases`: how often it was put back into service."""

    drained: str
    releases: int


class _Drained(Frozen):
    """Who took it out of service, from where, when and why."""

    user: str
    machine: str
    since: str
    why: str

    def __str__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return (
            f"drained by {self.user} on {self.machine} since {self.since}{why}; `hillclimb pool release` puts it back"
        )


class DutyFiles:
    """Those of one host, in its state directory."""

    def __init__(self, state: Path) -> None:
        self._drained = state / "drained"
        # a byte for every release: appending loses none when two people do it at once
        self._released = state / "released"

    def read(self) -> Duty:
        """Raises OSError."""
        try:
            releases = self._released.stat().st_size
        except FileNotFoundError:
            releases = 0
        return Duty(self._read_drained(), releases)

    def drain(self, care: Care) -> None:
        """Durable when it returns. Raises OSError."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        said = _Drained(user=care.user, machine=care.machine, since=since, why=care.why)
        write_durably(self._drained, said.model_dump_json())

    def release(self) -> None:
        """Durable when it returns. Raises OSError: the host is as drained as it was."""
        descriptor = os.open(self._released, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b".")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._drained.unlink(missing_ok=True)
        sync_directory(self._drained.parent)

    def _read_drained(self) -> str:
        try:
            return str(_Drained.model_validate_json(self._drained.read_bytes()))
        except FileNotFoundError:
            return ""
        except ValueError:
            return f"drained, {self._drained} does not say by whom; `hillclimb pool release` puts it back"
