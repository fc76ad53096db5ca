"""Who we are to a server: the keys of the agent and of files, tried one after another. There are no passwords here."""

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from paramiko import Agent, Message, PKey, PublicBlob, Transport
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from infra.ssh_route import Route, SshError

# A login may look a user up in a directory service, and an agent may ask for a finger on a token.
LOGIN_S = 30.0


def log_in(transport: Transport, route: Route) -> None:
    """Raises SshError: what was tried, and what to do."""
    transport.auth_timeout = LOGIN_S
    agent = _agent()
    tried: list[str] = []
    locked: list[str] = []
    try:
        for name, key in _keys(route, agent, locked):
            tried.append(name)
            try:
                wanted = transport.auth_publickey(route.user, key)
            except BadAuthenticationType as e:
                allowed = " or ".join(e.allowed_types)
                raise SshError(f"{route}: the server takes {allowed} and no key: let it take public keys") from e
            except AuthenticationException as e:
                if not transport.is_active():
                    raise SshError(_refusal(route, tried, locked, "ended the connection")) from e
                if transport.auth_handler is not None and "timeout" in str(e).lower():
                    raise SshError(f"{route}: no answer to the login within {LOGIN_S:g} s: try again") from e
            except (SSHException, OSError, EOFError) as e:
                if not transport.is_active():
                    raise SshError(f"{route}: the connection was dropped during the login ({e}): try again") from e
                locked.append(f"{name} could not be used ({e})")
            else:
                if not wanted:
                    return
                second = " or ".join(wanted)
                raise SshError(
                    f"{route}: the server wants {second} after the key, which hillclimb cannot give: use a key"
                )
        raise SshError(_refusal(route, tried, locked, "did not accept them"))
    finally:
        agent.close()


def _refusal(route: Route, tried: list[str], locked: list[str], how: str) -> str:
    said = f"the server {how} ({', '.join(tried)})" if tried else "there is no key to log in with"
    unlocked = f"; {'; '.join(locked)}" if locked else ""
    return (
        f"{route}: {said}{unlocked}: put your public key into ~/.ssh/authorized_keys of {route.user} there, and name "
        "the private one with `key` in the pool file or IdentityFile in ssh_config, or add it to your agent by ssh-add"
    )


def _agent() -> Agent:
    try:
        return Agent()
    except SSHException as e:
        raise SshError(f"the SSH agent of SSH_AUTH_SOCK does not answer ({e}): start it again, or unset that") from e


def _keys(route: Route, agent: Agent, locked: list[str]) -> Iterator[tuple[str, PKey]]:
    """Keys to try, by name: the route's files, or the agent's copy of them, then all others of the agent.

    What cannot be used is added to `locked`, with the reason.
    """
    of_agent = {key.asbytes(): key for key in agent.get_keys()}
    for file in route.identities:
        copy = of_agent.pop(_public(file), None)
        if copy is not None:
            yield f"{file} by the agent", copy
            continue
        try:
            yield str(file), PKey.from_path(file)
        except FileNotFoundError:
            if route.only_identities:
                locked.append(f"{file} does not exist")
        except OSError as e:
            locked.append(f"{file}: {e.strerror}")
        except TypeError:  # what the cryptography package says of an encrypted key without its passphrase
            locked.append(f"{file} has a passphrase: unlock it with `ssh-add {file}`")
        except (ValueError, UnknownKeyType, UnsupportedAlgorithm, SSHException) as e:
            locked.append(f"{file} is no private key that can be used ({e})")
    if not route.only_identities:
        for key in of_agent.values():
            yield f"{key.comment or key.get_name()} of the agent", key


def _public(file: Path) -> bytes:
    """The public part of a private key, encrypted or not; b"" when it cannot be told."""
    try:
        return bytes(PublicBlob.from_file(f"{file}.pub").key_blob)
    except (OSError, ValueError):
        pass
    try:
        body = "".join(file.read_text().split("-----")[2].split())
        message = Message(base64.b64decode(body))
    except (OSError, ValueError, IndexError, binascii.Error):
        return b""
    # PROTOCOL.key of OpenSSH: magic, cipher, kdf, its options, the number of keys, the public key
    if message.get_bytes(15) != b"openssh-key-v1\0":
        return b""
    for _ in ("cipher", "kdf", "options"):
        message.get_string()
    message.get_int()
    return bytes(message.get_string())
