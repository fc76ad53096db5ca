"""The way to a machine: what the pool file says of it, completed by ssh_config, jump hosts included.

Nothing is connected here. What the pool file names wins over ssh_config, and ssh_config over the defaults of OpenSSH.
ssh_config is read as OpenSSH reads it, `Include` included, but for what would run a program (`ProxyCommand`, `Match
exec`): that is refused. Host keys are always verified, whatever StrictHostKeyChecking says.
"""

import getpass
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paramiko.config import SSHConfig, SSHConfigDict
from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

from infra.fields import destination
from infra.pool import Machine, PoolError, Unreachable

# A host that is up says who it is within a second on another continent; one that is slow to start a session in five.
CONNECT_S = 10.0
SSH_PORT = 22
# OpenSSH's own limit on files that include each other.
INCLUDE_DEPTH = 16
# Longer chains are a host that is reached through itself.
JUMPS = 8
# A keyword of ours, for blocks whose `Match exec` we do not run.
MATCH_EXEC = "HillclimbMatchExec"
# In the order in which OpenSSH tries them.
IDENTITIES = ("id_rsa", "id_ecdsa", "id_ed25519")


class SshError(Unreachable):
    """A machine that SSH does not reach, or no longer: says which one, why, and what to do."""


@dataclass(frozen=True)
class Route:
    """One hop and all before it. `host` is what is connected to; `names` is how messages call it."""

    name: str
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only_identities: bool
    known_hosts: tuple[Path, ...]
    host_key_alias: str
    connect_s: float
    jump: "Route | None"

    def __str__(self) -> str:
        """`name (user@host:port)`, and through what."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        through = f" through {self.jump.host}" if self.jump else ""
        return f"{self.name} ({self.user}@{host}:{self.port}{through})"


def route_to(machine: Machine) -> Route:
    """Raises PoolError: ssh_config cannot be read, or wants what is not supported."""
    return _route(_read_config(), machine, "", 0)


def _route(config: SSHConfig, machine: Machine, key: str, depth: int) -> Route:
    """`key` is tried before what ssh_config says: the one of the machine that lies behind this hop."""
    if depth > JUMPS:
        raise PoolError(f"{machine.name}: more than {JUMPS} jump hosts: correct `jump`, or ProxyJump in ssh_config")
    found = _lookup(config, machine)
    jumps = machine.jump or found.get("proxyjump", "none")
    if program := found.get(MATCH_EXEC.lower()):
        raise PoolError(
            f"{machine.name}: whether a block of {program} is about {machine.address} is for a program to say (Match "
            f"exec), and hillclimb runs none: write `!originalhost {machine.address}` before `exec` there if it is not"
        )
    if found.get("proxycommand") and jumps.lower() == "none":
        raise PoolError(
            f"{machine.name}: ssh_config reaches {machine.address} by ProxyCommand, a line for a shell, and hillclimb "
            "runs none: use ProxyJump there, or `jump` in the pool file"
        )
    identities = [machine.key] if machine.key else [file for file in found.get("identityfile", []) if file != "none"]
    identities = identities or [f"~/.ssh/{identity}" for identity in IDENTITIES]
    return Route(
        name=machine.name,
        host=found["hostname"],
        port=machine.port or _number(found, "port", SSH_PORT),
        user=machine.user or found.get("user") or getpass.getuser(),
        identities=tuple(Path(file).expanduser() for file in ([key] if key else []) + identities),
        only_identities=bool(machine.key) or found.get("identitiesonly", "no").lower() == "yes",
        known_hosts=tuple(
            Path(file).expanduser()
            for option, default in (
                ("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
                ("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
            )
            for file in shlex.split(found.get(option, default))
            if file != "none"
        ),
        host_key_alias=found.get("hostkeyalias", ""),
        connect_s=float(_number(found, "connecttimeout", 0)) or CONNECT_S,
        jump=None if jumps.lower() == "none" else _jump(config, jumps, machine.key or key, depth),
    )


def _jump(config: SSHConfig, jumps: str, key: str, depth: int) -> Route:
    """The last of several jump hosts, reached through those before it; the first as ssh_config says."""
    before, _, last = jumps.replace(" ", "").rpartition(",")
    try:
        to = destination(last.removeprefix("ssh://"))
    except ValueError as e:
        raise PoolError(f"jump host {last!r}: {e}") from e
    machine = Machine(name=to.address, address=to.address, user=to.user, port=to.port, jump=before)
    return _route(config, machine, key, depth + 1)


def _number(found: SSHConfigDict, key: str, default: int) -> int:
    said = found.get(key, str(default))
    if said == "none":  # ConnectTimeout: the default
        return default
    if not str(said).isdigit():
        raise PoolError(f"ssh_config: {key} {said} is not a number: correct it")
    return int(said)


def _lookup(config: SSHConfig, machine: Machine) -> SSHConfigDict:
    try:
        return config.lookup(machine.address)
    except (ConfigParseError, CouldNotCanonicalize, KeyError, ValueError) as e:
        raise PoolError(f"{machine.name}: ssh_config cannot be applied to {machine.address} ({e}): correct it") from e


def _read_config() -> SSHConfig:
    """The user's and the machine's, in this order: the first value found counts."""
    config = SSHConfig()
    for path in (Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")):
        try:
            config.parse(_lines(path, path.parent, "Host *", 0))
        except (ConfigParseError, ValueError) as e:
            raise PoolError(f"{path}: {e}: correct it") from e
    return config


def _lines(path: Path, base: Path, block: str, depth: int) -> Iterator[str]:
    """The lines of a file with those it includes, whose paths are relative to `base`.

    A block that an included file begins ends with that file.
    """
    if depth > INCLUDE_DEPTH:
        raise PoolError(f"{path}: includes itself: correct it")
    try:
        text = path.read_text()
    except FileNotFoundError:
        return
    except OSError as e:
        raise PoolError(f"{path}: {e.strerror}: correct its permissions") from e
    for line in text.splitlines():
        words = line.replace("=", " ", 1).split(maxsplit=1)
        keyword = words[0].lower() if words else ""
        if keyword == "match":
            line = _without_exec(line, path)
        if keyword in ("host", "match"):
            block = line
        if keyword != "include":
            yield from line.splitlines()
            continue
        for pattern in shlex.split(words[1] if len(words) == 2 else ""):
            for included in _matching(base, pattern):
                yield from _lines(included, base, block, depth + 1)
        yield from block.splitlines()


def _without_exec(line: str, path: Path) -> str:
    """A `Match` that would run a program becomes one without it that says so, if it is about our host."""
    words = shlex.split(line)
    program = next((number for number, word in enumerate(words) if word.lower() in ("exec", "!exec")), None)
    if program is None:
        return line
    del words[program : program + 2]
    return f"{shlex.join(words) if len(words) > 1 else 'Match all'}\n{MATCH_EXEC} {path}"


def _matching(base: Path, pattern: str) -> list[Path]:
    wanted = base / Path(pattern).expanduser()
    return sorted(Path(wanted.anchor).glob(str(wanted.relative_to(wanted.anchor))))
