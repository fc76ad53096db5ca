"""Whether a person has taken a host out of service: a file beside the host's lock, which outlives the actor."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from core.model import Frozen
from core.protocol import Care
from workers.host.disk import sync_directory, write_durably


class Drained(Frozen):
    """Who did it, from where, when and why."""

    user: str
    machine: str
    since: str
    why: str

    def __str__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return (
            f"drained by {self.user} on {self.machine} since {self.since}{why}; `hillclimb pool release` puts it back"
        )

    @classmethod
    def asked(cls, care: Care) -> Self:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(user=care.user, machine=care.machine, since=since, why=care.why)

    @classmethod
    def read(cls, path: Path) -> str:
        """Why the host takes no visits, or ""."""
        try:
            return str(cls.model_validate_json(path.read_bytes()))
        except FileNotFoundError:
            return ""
        except ValueError:
            return f"drained, {path} does not say by whom; `hillclimb pool release` puts it back"

    def write(self, path: Path) -> None:
        """Durable when it returns. Raises OSError."""
        write_durably(path, self.model_dump_json())


def remove(path: Path) -> None:
    """Durable when it returns. Raises OSError."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
