"""The kinds of text a pool file holds: names, addresses, paths, labels. Each is checked once, when the file is read.

What passes is safe to hand on: a word is one argument of a program and never an option, a path means the same wherever
the command is typed, a label is one that Ray takes. Each refusal is a ValueError that ends in the way out.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

# Ray's labels are those of Kubernetes, and a host's name is one.
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
# Our own labels say which host a node is: whoever could set them could move one.
_OURS = "hillclimb-"
# Ray 2.60 pastes the interpreter it was started with into a line for bash, as it is.
_PLAIN = re.compile(r"[A-Za-z0-9_./+@:,=-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Destination(NamedTuple):
    """Where SSH goes: `user` "" and `port` None leave it to ssh_config."""

    address: str
    user: str
    port: int | None


def destination(text: str) -> Destination:
    """[user@]address[:port], as OpenSSH's ProxyJump has it; an IPv6 address with a port stands in brackets.

    Raises ValueError.
    """
    user, _, rest = text.rpartition("@")
    bracketed = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]{1,5}))?", rest)
    plain = re.fullmatch(r"([^:\[\]]+):([0-9]{1,5})", rest)
    if match := bracketed or plain:
        address, port = match[1], int(match[2]) if match[2] else None
    else:
        address, port = rest, None
    if user or text.startswith("@"):
        _user(user)
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"there is no port {port}: write one from 1 to 65535")
    return Destination(_address(address), user, port)


def _word(text: str) -> str:
    if not text:
        raise ValueError("it is empty: write a value")
    if _CONTROL.search(text) or re.search(r"\s", text):
        raise ValueError("it has a space or a control character: write it without")
    if text.startswith("-"):
        raise ValueError("it begins with a dash, and would be read as an option: write it without")
    return text


def _address(text: str) -> str:
    _word(text)
    if "@" in text:
        raise ValueError("it names a user too: write the part before the @ as user = …, the rest here")
    if ":" in text or text.startswith("["):
        try:
            ip_address(text)
        except ValueError:
            raise ValueError("only an IPv6 address has colons: write the address alone, a port as port = …") from None
    return text


def _user(text: str) -> str:
    if "@" in _word(text):
        raise ValueError("it has an @: write the user's name alone")
    return text


def _jump(text: str) -> str:
    for each in text.split(","):
        destination(each)
    return text


def _name(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(
            "a name has up to 63 letters, digits, dots, dashes and underscores, a letter or digit at both ends: "
            "write another"
        )
    return text


def _label_key(text: str) -> str:
    if text.startswith(_OURS):
        raise ValueError(f"labels that begin with {_OURS} are hillclimb's own: write another")
    return _name(text)


def _path_here(text: str) -> str:
    if _CONTROL.search(text) or not text.startswith(("/", "~/")):
        raise ValueError("it would depend on where you stand: write a path from / or ~/")
    return text


def _path_there(text: str) -> str:
    if _CONTROL.search(text) or not text.startswith("/"):
        raise ValueError("it must mean one file on the host, whoever looks: write a path from /")
    if not is_plain(text):
        raise ValueError("Ray hands it to a shell: write a path of letters, digits and _ . / + @ : , = -")
    return text


def is_plain(path: str) -> bool:
    """Whether a shell reads it as it is written."""
    return bool(_PLAIN.fullmatch(path))


def _root(text: str) -> str:
    if _CONTROL.search(text) or not text.startswith(("/", "~/")):
        raise ValueError("it must mean one directory on the host, whoever looks: write a path from / or ~/")
    if ":" in text:
        raise ValueError("it has a colon, at which Python would cut its search path in two: write a path without")
    return text


def _head(text: str) -> str:
    if not re.fullmatch(r"(\[[^\[\]]+\]|[^:@]+):[0-9]{1,5}", text):
        raise ValueError("it is where the cluster's head listens: write HOST:PORT")
    destination(text)
    return text


def _index(text: str) -> str:
    if not re.match(r"(https?|file)://", text):
        raise ValueError("it is no URL of a package index: write it as in https://pypi.org/simple")
    return _word(text)


def expanded(path: str) -> str:
    """A path on this machine with ~ as the home directory; "" stays ""."""
    return str(Path(path).expanduser()) if path else ""


def optional(check: Callable[[str], str]) -> AfterValidator:
    """What may be left out may also be written as "": both say nothing."""
    return AfterValidator(lambda text: check(text) if text else text)


Address = Annotated[str, AfterValidator(_address)]
HeadAddress = Annotated[str, AfterValidator(_head)]
Name = Annotated[str, AfterValidator(_name)]
Root = Annotated[str, AfterValidator(_root)]
Port = Annotated[int, Field(ge=1, le=65535)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
LabelValue = Annotated[str, optional(_name)]
OtherName = Annotated[str, optional(_name)]
User = Annotated[str, optional(_user)]
Jump = Annotated[str, optional(_jump)]
PathHere = Annotated[str, optional(_path_here)]
PathThere = Annotated[str, optional(_path_there)]
Index = Annotated[str, optional(_index)]
