"""Where hillclimb keeps what must outlive a process on a machine: spools, locks, the pools' tokens."""

import os
import secrets
from pathlib import Path

# Of a machine, whoever its user is (`workers.host.shared`): who measures on it has this file locked.
HOST_LOCK = "/tmp/hillclimb-host.lock"


def state_dir() -> Path:
    """$HILLCLIMB_STATE, else hillclimb/ in $XDG_STATE_HOME or ~/.local/state. Made, for its owner's eyes only."""
    chosen = os.environ.get("HILLCLIMB_STATE")
    base = (
        Path(chosen)
        if chosen
        else Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hillclimb"
    )
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    return base.resolve()


def token_file(path: Path) -> Path:
    """A Ray authentication token at `path`, made with mode 0600 when there is none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path
