"""One machine of an ssh pool, whenever it is needed: connected again after a dropped link, ready to run this code.

What is known of a machine is known for as long as one connection lives: after a drop it may have been rebooted, or
replaced by another at the same address, so everything is looked at anew. It knows nothing of Ray's processes.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from inspect import getsource
from typing import NamedTuple

from infra import survey, sync
from infra.agent import Agent, Facts, RemoteError
from infra.bundle import Bundle
from infra.errands import VERSIONS
from infra.fields import is_plain
from infra.pool import Machine
from infra.ssh import Connection, Process, SshError
from infra.state import HOST_LOCK

# An interpreter's start on a machine under load; a walk over an environment's 30,000 files takes about a second.
ERRAND_S = 60.0


class Versions(NamedTuple):
    """What must be equal on all machines of a Ray cluster."""

    python: str
    ray: str

    def __str__(self) -> str:
        return f"Python {self.python} and Ray {self.ray}"


class Ready(NamedTuple):
    """A machine on which a bundle can run. `python`: the interpreter's path there. `bundle`: its id."""

    facts: Facts
    python: str
    versions: Versions
    bundle: str


class Survey(NamedTuple):
    """See `infra.survey`."""

    sessions: dict[str, list[str]]
    holder: str | None
    memory_bytes: int
    folders: dict[str, int]


class Station:
    """A machine. May be used from several threads."""

    def __init__(self, machine: Machine, root: str, index: str = "", say: Callable[[str], None] = print) -> None:
        """`index`: of packages, for its environment. `say` is told what is sent there."""
        self.name = machine.name
        # held by whoever starts or replaces something there
        self.turn = threading.RLock()
        self._machine = machine
        self._root = root
        self._index = index
        self._say = say
        self._opening = threading.Lock()
        self._is_closed = False
        self._open: tuple[Connection, Agent] | None = None
        self._ready: tuple[Agent, Bundle, Ready] | None = None
        self._sent_before = 0

    @property
    def agent(self) -> Agent:
        """Of a connection that lives. Raises SshError, RemoteError."""
        return self._connected()[1]

    @property
    def sent_bytes(self) -> int:
        """Code and environments put on the wire so far."""
        return self._sent_before + (self._open[1].sent_bytes if self._open else 0)

    def look(self) -> Facts:
        """Raises SshError, RemoteError."""
        return self.agent.look()

    def ready(self, bundle: Bundle) -> Ready:
        """That code and its environment are there. Sends what is missing. Raises PoolError."""
        with self.turn:
            agent = self.agent
            if self._ready is None or self._ready[:2] != (agent, bundle):
                python = self.place(bundle)
                if not is_plain(python):
                    raise RemoteError(
                        f"Ray hands the path of its Python there, {python}, to a shell: set `root` to a path of "
                        "letters, digits and _ . / + @ : , = -"
                    )
                self._ready = agent, bundle, Ready(agent.look(), python, self._versions(agent, python), bundle.id)
            return self._ready[2]

    def place(self, bundle: Bundle) -> str:
        """The path of the interpreter that runs the bundle there. Raises PoolError.

        Over a session of its own: an environment may take an hour, and nobody who looks at the machine waits for that.
        """
        agent = Agent.start(self._connected()[0], self._root)
        try:
            return sync.place(agent, bundle, python=self._machine.python, index=self._index, say=self._say)
        finally:
            agent.close()
            with self._opening:
                self._sent_before += agent.sent_bytes

    def path(self, *parts: str) -> str:
        """Below the pool's root there, absolute."""
        return "/".join((self.look().root, *parts))

    def scratch(self) -> str:
        """Where Ray keeps sockets and logs: short, since the path of a socket may have 107 characters."""
        facts = self.look()
        return f"/tmp/hillclimb-{facts.uid}-{hashlib.sha256(facts.root.encode()).hexdigest()[:8]}"

    def survey(self, *folders: str) -> Survey:
        """What of the pool runs there, and how much lies in these folders of its root. Raises PoolError."""
        places = {folder: self.path(folder) for folder in folders}
        asked = {"token": self.path("token"), "lock": HOST_LOCK, "folders": places}
        try:
            return Survey(**json.loads(self.errand(getsource(survey), json.dumps(asked))))
        except (ValueError, TypeError) as e:
            raise RemoteError(f"{self.name}: what python3 says there makes no sense ({e}): repair it") from e

    def errand(self, program: str, *arguments: str) -> str:
        """The last line that a program for `python -c` prints there. Raises PoolError with what went wrong."""
        agent = self.agent
        return self._run(agent, [agent.look().executable, "-I", "-c", program, *arguments])

    def become(self, argv: Sequence[str], env: Mapping[str, str]) -> Process:
        """A program there, its input and output over a session of its own. Raises PoolError."""
        return Agent.start(self._connected()[0], self._root).become(argv, env)

    def forget(self) -> None:
        """The next use connects anew."""
        with self._opening:
            self._drop()

    def close(self) -> None:
        """Ends what other threads do there: no use connects any more."""
        self._is_closed = True
        self.forget()

    def _connected(self) -> tuple[Connection, Agent]:
        with self._opening:
            if self._is_closed:
                raise SshError(f"{self.name}: this command has ended: try again")
            if self._open is None or not (self._open[0].is_alive and self._open[1].is_alive):
                self._drop()
                connection = Connection.open(self._machine)
                try:
                    self._open = connection, Agent.start(connection, self._root)
                except BaseException:
                    connection.close()
                    raise
            return self._open

    def _drop(self) -> None:
        self._sent_before = self.sent_bytes
        if self._open is not None:
            self._open[0].close()
        self._open = None

    def _versions(self, agent: Agent, python: str) -> Versions:
        try:
            minor, ray = json.loads(self._run(agent, [python, "-P", "-c", VERSIONS]))
        except (ValueError, TypeError) as e:
            raise RemoteError(f"{self.name}: what {python} says makes no sense ({e}): repair it") from e
        if not ray:
            raise RemoteError(
                f"{python} has no Ray: install what constraints.txt pins there, or leave `python` out of the pool file"
            )
        return Versions(minor, ray)

    def _run(self, agent: Agent, argv: list[str]) -> str:
        done = agent.run(argv, timeout_s=ERRAND_S)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            raise RemoteError(last)
        # whatever its startup files print comes before
        return (done.stdout.splitlines() or [""])[-1]
