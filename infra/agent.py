"""Our hands on a machine: what we ask of it over one SSH session, in requests that end.

On a host nothing is needed but sshd and python3. One constant command starts that python3, which gets the modules of
`infra.remote` as its input and then answers requests: no shell ever sees data of ours, whatever paths and arguments
hold. That the machine cannot be talked to is an SshError; that it answered and it did not work a RemoteError.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from infra.pool import PoolError
from infra.ssh import Connection, Process, SshError

# For every login shell: inside single quotes no character of it means anything to one. Old Pythons understand it, too.
START = (
    "exec python3 -I -c 'import sys; v = sys.version_info; i = sys.stdin.buffer; "
    'v < (3, 8) and sys.exit("python3 is %d.%d there, and 3.8 or later is needed" % v[:2]); '
    'exec(compile(i.read(int(i.readline())), "hillclimb", "exec"))\''
)
# What that reads first: modules that came as text. `TEXTS` is their names and texts, each after those it imports.
LOADER = b"""
import sys, types
for name, text in TEXTS:
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    exec(compile(text, name, "exec"), module.__dict__)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
module.serve()
"""
MODULES = ("processes", "files", "program", "daemons", "unused", "session")
# A login over a slow directory service and a shell's startup files; on a host that is busy compiling.
START_S = 60.0
# What a look at files and processes takes on a host with a busy disk.
ANSWER_S = 60.0
# An archive is unpacked and forced to disk file by file.
UNPACK_S = 300.0
# The longest there is, a program's two outputs of 1 MiB each, has a sixth of this as JSON.
ANSWER_BYTES = 64 << 20
# A login shell that prints more than this before we are heard is not going to stop.
CHATTER_BYTES = 1 << 20

Result = TypeVar("Result")


class RemoteError(PoolError):
    """A machine answered, and it did not work: says what and where. `errno` when it was the system that refused."""

    def __init__(self, said: str, errno: int | None = None) -> None:
        super().__init__(said)
        self.errno = errno


class Facts(NamedTuple):
    """What a machine is. `address` is its own end of this SSH session; `boot` changes when it is restarted."""

    python: str
    executable: str
    user: str
    uid: int
    home: str
    root: str
    boot: str
    arch: str
    hostname: str
    memory_bytes: int
    free_disk_bytes: int
    address: str


class Ran(NamedTuple):
    """How a program ended, and the last MiB of each of its outputs."""

    returncode: int
    stdout: str
    stderr: str


class Running(NamedTuple):
    """A process that was started on a machine and lives. `since` is in seconds on the machine's own clock."""

    pid: int
    start_time: int
    argv: tuple[str, ...]
    since: float
    info: dict[str, Any]


class Agent:
    """One conversation, one request at a time: others wait. Paths are relative to `root` there, or absolute.

    Every method raises SshError when the connection ended or no answer came in time (the conversation is then over),
    and RemoteError when the answer was no.
    """

    def __init__(self, name: str, process: Process) -> None:
        """Use `start`."""
        self._name = name
        self._process = process
        self._heard = b""
        self._is_over = False
        self._lock = threading.Lock()
        self.sent_bytes = 0  # of what was put and unpacked

    @classmethod
    def start(cls, connection: Connection, root: str) -> Self:
        """`root` may begin with ~. Raises RemoteError when there is no python3, or too old a one."""
        agent = cls(connection.name, connection.command(START))
        try:
            agent._greet(root)
        except BaseException:
            agent.close()
            raise
        return agent

    def look(self) -> Facts:
        """Asked once: none of it changes while a session lasts but the disk's free bytes."""
        return self._facts

    @cached_property
    def _facts(self) -> Facts:
        return self._ask(lambda said: Facts(**said), "look")

    def exists(self, path: str) -> bool:
        return self._ask(bool, "exists", path=path)

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """A whole file: one of more than `limit` bytes is refused."""
        return self._ask(bytes, "read", path=path, limit=limit)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """The file appears whole, on disk, with its folders."""
        self._ask(bool, "put", path=path, mode=mode, body=data)

    def unpack(self, path: str, tar_gz: bytes) -> bool:
        """The folder appears whole, on disk: files and folders only. One that is there stays as it is: then False."""
        return self._ask(bool, "unpack", UNPACK_S, path=path, body=tar_gz)

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout_s: float = 600.0) -> Ran:
        """A program to its end, without a shell, `env` added to what is there. It ends with the conversation."""
        arguments: dict[str, Any] = {"argv": list(argv), "env": dict(env or {}), "timeout_s": timeout_s}
        return self._ask(lambda said: Ran(**said), "run", timeout_s, **arguments)

    def token(self, path: str) -> str:
        """The secret in this file, which its owner alone can read; made when there is none."""
        return self._ask(str, "token", path=path)

    def start_process(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        info: Mapping[str, Any],
        ready: str,
        within_s: float,
    ) -> Running:
        """Starts what stays when we go: run/<name>.log has its output, run/<name>.json who it is.

        One that lives is returned as it is. Waits until the log holds `ready`; what is not ready within `within_s`, or
        ends, is cleared away, and the RemoteError has the end of the log.
        """
        arguments: dict[str, Any] = {"argv": list(argv), "env": dict(env), "info": dict(info), "ready": ready}
        # twice at most: somebody else's start or stop, and then our own
        return self._ask(_running, "start_process", 2 * within_s, name=name, within_s=within_s, **arguments)

    def process(self, name: str) -> Running | None:
        """The one started by this name, while it lives."""
        return self._ask(lambda said: None if said is None else _running(said), "process", name=name)

    def stop_process(self, name: str, grace_s: float) -> bool:
        """Ends it with all it started: TERM, and KILL after `grace_s`. Whether there was anything."""
        return self._ask(bool, "stop_process", 2 * grace_s, name=name, grace_s=grace_s)

    def prune(self, keep: Sequence[str], newest: int, young_s: float = 3600.0) -> list[str]:
        """Removes bundles and environments but those in `keep`, the `newest`, those in use and those younger than
        `young_s`, which somebody may be making. Returns the paths."""
        arguments: dict[str, Any] = {"keep": list(keep), "newest": newest, "young_s": young_s}
        return self._ask(list[str], "prune", UNPACK_S, **arguments)

    def free_port(self) -> int:
        return self._ask(int, "free_port")

    def become(self, argv: Sequence[str], env: Mapping[str, str]) -> Process:
        """The session is that program's from now on: its input, output and errors. This agent is no more."""
        self._ask(bool, "become", argv=list(argv), env=dict(env))
        self._is_over = True
        self._process.unread(self._heard)
        return self._process

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked: false when it was closed, gave no answer in time, ended, or became another."""
        return not self._is_over and self._process.is_open

    def close(self) -> None:
        """Ends the conversation, and what `run` has in hand; nothing that was started."""
        self._process.close()

    def _greet(self, root: str) -> None:
        text = _text()
        marker = secrets.token_hex(16)
        hello = json.dumps({"marker": marker, "root": root}).encode()
        deadline = time.monotonic() + START_S
        said = b""
        wanted = b"\n%s\n" % marker.encode()
        try:
            self._process.send(b"%d\n%s%s\n" % (len(text), text, hello))
            while wanted not in said:
                chunk = self._process.receive(1 << 16, max(0.0, deadline - time.monotonic()))
                said += chunk
                if not chunk or len(said) > CHATTER_BYTES:
                    raise RemoteError(f"{self._name}: {self._silence(said)}")
        except TimeoutError as e:
            raise SshError(
                f"{self._name}: python3 did not start there within {START_S:g} s: is it overloaded, or does a startup "
                "file of its login shell wait for something?"
            ) from e
        self._heard = said.partition(wanted)[2]

    def _silence(self, said: bytes) -> str:
        """Why no agent began to speak."""
        if self._process.exit_status == 127 or "not found" in self._process.stderr.lower():
            return "there is no python3 on the PATH of its login shell: install Python 3.8 or later there"
        last = " ".join((self._process.stderr or said.decode(errors="replace")).split())[-500:].strip()
        return f"python3 could not be started there: {last or 'nothing was said'}: log in by ssh and try `python3`"

    def _ask(
        self,
        shape: Callable[[Any], Result],
        do: str,
        work_s: float = 0.0,
        body: bytes | None = None,
        **arguments: Any,
    ) -> Result:
        """`shape` makes of an answer what it is; what it cannot is none."""
        request = {"do": do, "arguments": arguments, "size": None if body is None else len(body)}
        text = json.dumps(request).encode() + b"\n" + (body or b"")
        with self._lock:
            try:
                self._process.send(text)
                self.sent_bytes += len(body or b"")
                deadline = time.monotonic() + work_s + ANSWER_S
                answer = json.loads(self._line(deadline))
                if "refused" in answer:
                    raise RemoteError(f"{self._name}: {answer['refused']}", answer.get("errno"))
                return shape(answer["said"] if answer["size"] is None else self._exactly(answer["size"], deadline))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
                self.close()
                raise RemoteError(
                    f"{self._name}: what it says to `{do}` is no answer ({e!r}): look at what runs there as python3"
                ) from e
            except TimeoutError as e:
                # a late answer must not be taken for that to a later question
                self.close()
                raise SshError(
                    f"{self._name}: no answer to `{do}` within {work_s + ANSWER_S:g} s: is it overloaded?"
                ) from e

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._heard:
            self._hear(deadline)
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._heard) < size:
            self._hear(deadline)
        said, self._heard = self._heard[:size], self._heard[size:]
        return said

    def _hear(self, deadline: float) -> None:
        chunk = self._process.receive(1 << 16, max(0.0, deadline - time.monotonic()))
        if not chunk:
            raise RemoteError(f"{self._name}: the agent there has ended: {self._process.stderr or 'it was killed'}")
        self._heard += chunk
        if len(self._heard) > ANSWER_BYTES:
            self.close()
            raise RemoteError(f"{self._name}: its answer has no end: look at what runs there as python3")


def _running(record: Mapping[str, Any]) -> Running:
    return Running(record["pid"], record["start_time"], tuple(record["argv"]), record["since"], dict(record["info"]))


def _text() -> bytes:
    """The program that is sent."""
    folder = Path(__file__).with_name("remote")
    texts = [("infra", ""), ("infra.remote", "")]
    texts += [(f"infra.remote.{name}", (folder / f"{name}.py").read_text()) for name in MODULES]
    return b"TEXTS = %s\n%s" % (repr(texts).encode(), LOADER)
