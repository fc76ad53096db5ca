"""Which key a host is known by: the known_hosts files of OpenSSH, as `man sshd` describes them.

Read-only: no key is ever accepted here. `@cert-authority` lines say nothing, since certificates of hosts are not
checked: a host that is known by one needs a line of its own.
"""

import base64
import binascii
import hashlib
import hmac
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from infra.pool import PoolError

SSH_PORT = 22


class HostKey(NamedTuple):
    """A public key as a server shows it."""

    type: str
    blob: bytes

    def __str__(self) -> str:
        """As `ssh-keygen -lf` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{self.type} SHA256:{digest}"


class _Entry(NamedTuple):
    file: Path
    line: int
    revoked: bool
    names: str
    key: HostKey

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class KnownHosts:
    """The keys of one host: connected to at `host`, `port`, through `jump`, and known as `alias` when there is one."""

    def __init__(self, files: Iterable[Path], host: str, port: int, alias: str = "", jump: str = "") -> None:
        """Raises PoolError when a file cannot be read."""
        self._files = tuple(files)
        self._host, self._port, self._alias, self._jump = host, port, alias, jump
        self._name = (alias or (host if port == SSH_PORT else f"[{host}]:{port}")).lower()
        self._entries = [entry for file in self._files for entry in _read(file)]

    def types(self) -> list[str]:
        """The kinds of keys this host is known by. It must be asked for one of them, or it seems to have changed."""
        return list(dict.fromkeys(entry.key.type for entry in self._named() if not entry.revoked))

    def complaint(self, shown: HostKey) -> str:
        """Why a host that shows this key is not to be trusted, and what to do; "" when the key is known."""
        entries = self._named()
        for entry in entries:
            if entry.revoked and entry.key == shown:
                return f"its key {shown} is revoked by {entry}: give the host a new key"
        known = sorted(
            (entry for entry in entries if not entry.revoked), key=lambda entry: entry.key.type != shown.type
        )
        if any(entry.key == shown for entry in known):
            return ""
        if known:
            forget = shlex.join(["ssh-keygen", "-R", self._name, "-f", str(known[0].file)])
            return (
                f"its key changed: it shows {shown}, and {known[0]} has {known[0].key}. Either the host was set up "
                f"again or another answers in its place: if you know why, forget the old key with `{forget}`, then "
                f"{self._accept}"
            )
        return f"its key {shown} is not known: {self._accept}"

    @property
    def _accept(self) -> str:
        """How a person accepts the key of this host."""
        compare = "compare the fingerprint with the one the host's console or owner tells you"
        port, host = str(self._port), self._host
        if not (self._alias or self._jump):
            file = shlex.quote(str(self._files[0])) if self._files else "~/.ssh/known_hosts"
            return f"{compare}, then `{shlex.join(['ssh-keyscan', '-p', port, host])} >> {file}`"
        # only a login writes the alias, and only it goes through another host
        alias = ["-o", f"HostKeyAlias={self._alias}"] if self._alias else []
        jump = ["-J", self._jump] if self._jump else []
        return f"{compare}, then log in once by `{shlex.join(['ssh', *alias, *jump, '-p', port, host])}`"

    def _named(self) -> list[_Entry]:
        """The lines of this host. Without one for its port those for its name count, as in OpenSSH."""
        found = [entry for entry in self._entries if _matches(entry.names, self._name)]
        if found or self._alias:
            return found
        return [entry for entry in self._entries if _matches(entry.names, self._host.lower())]


def _read(file: Path) -> list[_Entry]:
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as e:
        raise PoolError(f"{file}: {e.strerror}: the keys of hosts are read there, correct its permissions") from e
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#") or marker == "@cert-authority":
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except binascii.Error:
            continue
        entries.append(_Entry(file, number, marker == "@revoked", words[0], HostKey(words[1], blob)))
    return entries


def _matches(names: str, name: str) -> bool:
    """Whether a line's names, patterns or hashed name are of `name`. A negated pattern that matches decides."""
    found = False
    for pattern in names.split(","):
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, name)
        elif _glob(pattern.removeprefix("!").lower(), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(pattern: str, name: str) -> bool:
    """`*` and `?` alone are special: a name with a port has brackets."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in hashed.split("|")[2:])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
