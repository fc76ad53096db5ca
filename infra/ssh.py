"""Connections to machines over SSH, and the programs run through them. Blocking; used by threads.

Every wait here ends. A peer that falls silent, whether its link is cut, its machine gone or its sshd stuck, is noticed
by us: TCP would wait for a quarter of an hour, and a stuck sshd for ever. What ends a connection is an SshError for
everyone who waits on it; what a program said or returned never is. Only constant commands are run: what they need to
know travels over their input (`infra.agent`). The keys of hosts are verified, each hop's its own.
"""

import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Self

from paramiko import Channel, Transport
from paramiko.ssh_exception import ChannelException, SSHException

from infra.known_hosts import HostKey, KnownHosts
from infra.pool import Machine
from infra.ssh_login import log_in
from infra.ssh_route import Route, SshError, route_to

__all__ = ["Connection", "Process", "SshError"]

# A peer that says nothing is asked this often whether it is there.
KEEPALIVE_S = 5
# A cut of ten seconds is survived; three unanswered questions are not.
SILENT_S = 15
# Before somebody who hung up is called again.
AGAIN_S = 1.0
# How long a wait goes without looking whether it still makes sense.
SLICE_S = 0.5
# A program that takes nothing of what it is sent for so long, over a connection that lives, is stuck.
STALL_S = 60.0
CHUNK_BYTES = 1 << 18
# An end is told right after the last output.
EXIT_S = 5.0
# Of what a program wrote on its error output; the last lines say what went wrong.
STDERR_BYTES = 4096
# An answer of an RSA key is signed with one of these, never with SHA-1.
RSA = ("rsa-sha2-512", "rsa-sha2-256")

# Its threads log what is raised to the caller as well, and would print it in the middle of a progress display.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class _Busy(SshError):
    """Whoever answered hung up before we knew each other."""


class _Wire:
    """A socket, or a channel through another host, that counts what is heard of the peer."""

    def __init__(self, inner: socket.socket | Channel) -> None:
        self._inner = inner
        self.heard = 0

    def recv(self, size: int) -> bytes:
        data: bytes = self._inner.recv(size)
        self.heard += len(data)
        return data

    def send(self, data: bytes) -> int:
        return self._inner.send(data)

    def settimeout(self, seconds: float) -> None:
        self._inner.settimeout(seconds)

    def close(self) -> None:
        with suppress(OSError, EOFError, SSHException):  # a channel says goodbye, though its connection may be gone
            self._inner.close()

    @property
    def _closed(self) -> bool:
        """paramiko asks sockets, and has given its channels the same."""
        return bool(self._inner._closed)  # type: ignore[union-attr]


class Connection:
    """One authenticated SSH connection. Any number of programs run over it, from any threads."""

    def __init__(self, route: Route, transport: Transport, wire: _Wire, hop: "Connection | None") -> None:
        """Use `open`."""
        self._route = route
        self._transport = transport
        self._wire = wire
        self._hop = hop
        self._over = threading.Event()
        self._why = "was dropped"
        for duty in (self._ask, self._watch):
            threading.Thread(target=duty, name=f"ssh {route.name}", daemon=True).start()

    @classmethod
    def open(cls, machine: Machine) -> Self:
        """Connects, verifies the host's key and logs in. Raises PoolError: SshError when it is the connection."""
        return cls._open(route_to(machine))

    @classmethod
    def _open(cls, route: Route) -> Self:
        hop = None if route.jump is None else cls._open(route.jump)
        deadline = time.monotonic() + route.connect_s
        try:
            while True:
                try:
                    return cls._try(route, hop, deadline)
                except _Busy:
                    # sshd drops who comes when many are at its door (MaxStartups), as they are when a pool goes up
                    if time.monotonic() + AGAIN_S > deadline:
                        raise
                    time.sleep(AGAIN_S)
        except BaseException:
            if hop is not None:
                hop.close()
            raise

    @classmethod
    def _try(cls, route: Route, hop: "Connection | None", deadline: float) -> Self:
        wire = _Wire(_dial(route) if hop is None else hop._forward(route))
        transport = Transport(wire)
        try:
            _shake_hands(transport, route, deadline)
            log_in(transport, route)
        except BaseException:
            transport.close()
            wire.close()
            raise
        return cls(route, transport, wire, hop)

    def command(self, command: str) -> "Process":
        """Starts a command of ours in the login shell there: a constant, never made from data. Raises SshError."""
        try:
            channel = self._transport.open_session(timeout=SILENT_S)
            channel.exec_command(command)
        except ChannelException as e:
            raise SshError(f"{self._route}: sshd there refused a session ({e.text}): raise its MaxSessions") from e
        except (SSHException, OSError, EOFError) as e:
            raise self.lost(e) from e
        return Process(self, channel)

    @property
    def is_alive(self) -> bool:
        """Whether the peer was heard of within the last SILENT_S."""
        return self._transport.is_active() and not self._over.is_set()

    @property
    def name(self) -> str:
        return self._route.name

    def close(self) -> None:
        """Ends what runs over it. Whoever waits is told."""
        self._end("was closed")

    def lost(self, cause: object = "") -> SshError:
        """What to raise when the connection ended under somebody, or did not do what it is for."""
        detail = f" ({cause})" if str(cause) else ""
        return SshError(f"{self._route}: the connection {self._why}{detail}: try again when the host answers")

    def _end(self, why: str) -> None:
        if not self._over.is_set():
            self._why = why
        self._over.set()
        self._transport.close()
        if self._hop is not None:
            self._hop.close()

    def _forward(self, route: Route) -> Channel:
        """A channel from here on to the next hop."""
        try:
            return self._transport.open_channel(
                "direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=route.connect_s
            )
        except ChannelException as e:
            raise SshError(
                f"{route}: {self._route.host} cannot connect to it ({e.text}): is it up, and may sshd there forward?"
            ) from e
        except (SSHException, OSError, EOFError) as e:
            raise SshError(f"{route}: no answer within {route.connect_s:g} s ({e}): check that it is up") from e

    def _ask(self) -> None:
        """Asks the peer for an answer, whatever it is, again and again."""
        while self._transport.is_active() and not self._over.wait(KEEPALIVE_S):
            try:
                self._transport.global_request("keepalive@hillclimb")
            except (SSHException, OSError, EOFError):
                return

    def _watch(self) -> None:
        """Ends the connection when nothing is heard. Counts its own seconds: we, too, may have been stopped."""
        silent_s, heard = 0, self._wire.heard
        while self._transport.is_active() and not self._over.wait(1.0):
            silent_s = silent_s + 1 if self._wire.heard == heard else 0
            heard = self._wire.heard
            if silent_s >= SILENT_S:
                self._end(f"was given up: nothing was heard for {SILENT_S} s")
        self._end("was dropped")


class Process:
    """A program that runs over a connection. One thread may send while another receives."""

    def __init__(self, connection: Connection, channel: Channel) -> None:
        """Use `Connection.command`."""
        self._connection = connection
        self._channel = channel
        self._stderr = b""
        self._unread = b""
        channel.settimeout(SLICE_S)

    def send(self, data: bytes, stall_s: float = STALL_S) -> None:
        """Returns when all of it is on its way.

        Raises TimeoutError when none of it was taken for `stall_s`, SshError when the connection or the program ended.
        """
        at = 0
        deadline = time.monotonic() + stall_s
        while at < len(data):
            try:
                sent = self._channel.send(data[at : at + CHUNK_BYTES])
            except TimeoutError:
                self._drain_stderr()
                if time.monotonic() >= deadline:
                    raise
                continue
            except (SSHException, OSError, EOFError) as e:
                raise self._ended(e) from e
            if not sent:
                raise self._ended("")
            at += sent
            deadline = time.monotonic() + stall_s

    def receive(self, size: int, timeout_s: float) -> bytes:
        """At most `size` bytes, as soon as there are any; b"" when the program has closed its output.

        Raises TimeoutError when nothing came within `timeout_s`, SshError when the connection ended or was closed.
        """
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        deadline = time.monotonic() + timeout_s
        while True:
            self._drain_stderr()
            try:
                data = self._channel.recv(size)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
                continue
            # a channel that ended with its connection has had no end of its own
            if not data and not self._channel.eof_received:
                raise self._connection.lost()
            return data

    def unread(self, data: bytes) -> None:
        """What was received, and is for the next one who receives."""
        self._unread = data + self._unread

    def close_input(self) -> None:
        try:
            self._channel.shutdown_write()
        except (SSHException, OSError, EOFError) as e:
            raise self._ended(e) from e

    @property
    def is_open(self) -> bool:
        """Whether more may come from it, and go to it."""
        return self._connection.is_alive and not (self._channel.closed or self._channel.eof_received)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; -1 when a signal ended it. The news come a moment after the end of its output."""
        is_told = self._channel.status_event.wait(EXIT_S if self._channel.eof_received else 0.0)
        return self._channel.exit_status if is_told else None

    @property
    def stderr(self) -> str:
        """The end of what it wrote on its error output so far."""
        self._drain_stderr()
        return self._stderr.decode(errors="replace").strip()

    def close(self) -> None:
        """The program loses its input and output. Wakes who sends or receives."""
        with suppress(SSHException, OSError, EOFError):
            self._channel.close()

    def _ended(self, cause: object) -> SshError:
        if self._connection.is_alive:
            return SshError(
                f"{self._connection.name}: the program there has ended: {self.stderr or cause or 'try again'}"
            )
        return self._connection.lost(cause)

    def _drain_stderr(self) -> None:
        """Both outputs share a window: one that nobody reads stops the other."""
        while self._channel.recv_stderr_ready():
            self._stderr = (self._stderr + self._channel.recv_stderr(1 << 16))[-STDERR_BYTES:]


def _dial(route: Route) -> socket.socket:
    try:
        connected = socket.create_connection((route.host, route.port), route.connect_s)
    except socket.gaierror as e:
        raise SshError(f"{route}: no such host ({e.strerror}): correct `address`") from e
    except TimeoutError as e:
        raise SshError(
            f"{route}: no answer within {route.connect_s:g} s: check that it is up and not fenced off"
        ) from e
    except OSError as e:
        raise SshError(
            f"{route}: {e.strerror or e}: check that sshd runs there, and that port {route.port} is right"
        ) from e
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _shake_hands(transport: Transport, route: Route, deadline: float) -> None:
    """Agrees on keys by `deadline`, and verifies the host's. Raises PoolError."""
    known = KnownHosts(
        route.known_hosts, route.host, route.port, route.host_key_alias, route.jump.host if route.jump else ""
    )
    options = transport.get_security_options()
    wanted = [name for kind in known.types() for name in (RSA if kind == "ssh-rsa" else (kind,))]
    # a host with keys of several kinds shows the one that is asked for first
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in wanted)
    within_s = max(0.0, deadline - time.monotonic())
    # later than we give up: its own timeouts are told as any other error
    transport.banner_timeout = transport.handshake_timeout = within_s + 1
    try:
        transport.start_client(timeout=within_s)
        key = transport.get_remote_server_key()
    except (SSHException, OSError, EOFError) as e:
        slow = f"its sshd says nothing within {route.connect_s:g} s: restart it"
        dropped = f"its sshd ended the connection ({e}): is it sshd, and does it take that many at once (MaxStartups)?"
        if time.monotonic() >= deadline:
            raise SshError(f"{route}: {slow}") from e
        raise _Busy(f"{route}: {dropped}") from e
    if complaint := known.complaint(HostKey(key.get_name(), key.asbytes())):
        raise SshError(f"{route}: {complaint}")
