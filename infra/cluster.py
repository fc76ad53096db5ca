"""Ray on the machines of an ssh pool: one head, a raylet a host, found again or started, equal in what Ray wants equal.

Everything is looked at before it is done, so doing it again does nothing, and whoever comes later (another controller,
another person's) finds what is there. A raylet belongs to one head: when that is another one, the raylet is replaced,
whatever runs under it, since nobody can reach it any more. All else that differs waits until nobody uses the host.

Every raylet carries a random word, its label RAYLET_LABEL: Ray believes in one that was killed for as long as the
pool's patience lasts, and only the word tells that the host has another since.
"""

import hashlib
import json
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from pydantic import ValidationError

from core.protocol import HostHeld
from infra import agreement, raylet
from infra.agent import RemoteError, Running
from infra.bundle import Bundle
from infra.errands import REACH, ROOM
from infra.parallel import outcome, side_by_side, threads
from infra.pool import HostSpec, Machine, PoolError, SshPool, Unreachable
from infra.ssh import Process, SshError
from infra.state import HOST_LOCK
from infra.station import Ready, Station, Survey, Versions

# The names of our processes on a machine, and the servers of Ray that live in each.
HEAD, RAYLET = "head", "raylet"
SERVERS = {HEAD: {"gcs_server", "raylet"}, RAYLET: {"raylet"}}

# Ray ends its own within 5 s; what is left after this is killed.
GRACE_S = 20.0
# Ray gives up on a busy machine, and is asked again.
TRIES = 3

# Without these equal, a process of Ray is of no use to another.
NEEDED = frozenset({"head", "token", "ray", "python"})

NOT_UP = "Ray is not up there: `hillclimb pool up` starts it"


class PoolInUse(PoolError):
    """Somebody uses what would have to be ended."""

    exit_code = 6


class HostPaths(NamedTuple):
    """Where on a host an actor finds its own, absolute; `bundle` is the id of the code it is made of, `python` the pool
    file's interpreter for bundles, if it names one."""

    state: str
    lock: str
    bundles: str
    bundle: str
    python: str


class Head(NamedTuple):
    """Ray's head at `address`, HOST:PORT. `word` tells it from any other, `secret` is the token it demands."""

    address: str
    word: str
    secret: str
    ready: Ready


def check(pool: SshPool) -> None:
    """A cheap reason why nothing could come up: Ray's head has no machine that answers. Raises PoolError."""
    station = Station(pool.head_machine(), pool.root)
    try:
        station.look()
    finally:
        station.close()


class Cluster:
    """The pool's machines as one Ray cluster. Calls block, and may come from any thread.

    After `up` or `attach`, `hosts` are those that are part of it, `failed` the others with the reason.
    """

    def __init__(self, pool: SshPool, bundle: Bundle, say: Callable[[str], None]) -> None:
        self.hosts: list[HostSpec] = []
        self.failed: dict[str, str] = {}
        self._pool = pool
        self._bundle = bundle
        self._tell = say
        self._telling = threading.Lock()
        self._specs = {spec.name: spec for spec in pool.specs()}
        self._stations = {name: self._station(machine) for name, machine in pool.machines().items()}
        head = pool.head_machine()
        self._head_station = self._stations.get(head.name) or self._station(head)
        self._head: Head | None = None
        self._starts = True

    # -- all of it ----------------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Brings up what is not, all machines side by side. Raises PoolError when the head fails."""
        self._starts = True
        self._join_all()

    def attach(self) -> None:
        """As `up`, but starts nothing: what is not up has failed. Raises PoolError."""
        self._starts = False
        self._join_all()

    def close(self) -> None:
        """Ends this process' connections, and with them what is under way over one. Ray stays up."""
        for station in self._every():
            station.close()

    @property
    def address(self) -> str:
        """HOST:PORT of Ray's head, as the pool's machines reach it."""
        return self._known_head().address

    @property
    def token(self) -> str:
        """Path of the token file on the head's machine."""
        return self._head_station.path("token")

    def relay(self) -> Process:
        """The relay, a driver on the head's machine that speaks over its input and output. Raises PoolError.

        A head that is gone is started again.
        """
        station, head = self._head_station, self._current_head()
        code = {"PYTHONPATH": station.path("bundles", head.ready.bundle)}
        return station.become([head.ready.python, "-m", "orchestrator.relay"], self._environment(station) | code)

    # -- one host -----------------------------------------------------------------------------------------------------

    def revive(self, host: str) -> str:
        """The word of the raylet that lives there, which is started when there is none.

        Raises SshError when the host does not answer, another PoolError when it does and has no raylet after all.
        """
        station = self._stations[host]
        with station.turn:
            running = self._living(station, RAYLET)
            if running is not None and running.info["head"] == self._known_head().word:
                return str(running.info["word"])
            try:
                # another controller may have started another head
                head = self._current_head()
            except SshError as e:
                raise PoolError(f"its Ray cannot be started: {e}") from e
            return self._join(host, head)

    def place(self, host: str, bundle: Bundle) -> None:
        """That code and its environment are on the host. Raises PoolError."""
        self._stations[host].place(bundle)

    def forget(self, host: str) -> None:
        """The host may be another machine now: the next call for it looks anew."""
        self._stations[host].forget()

    def paths(self, host: str) -> HostPaths:
        station = self._stations[host]
        bundle = self._ready(station, RAYLET).bundle
        python = self._pool.machines()[host].python
        return HostPaths(station.path("hosts", host), HOST_LOCK, station.path("bundles"), bundle, python)

    def actor_options(self, host: str) -> dict[str, Any]:
        """Of Ray, as JSON: the actor runs this code by the interpreter that was made for it.

        Ray 2.60 pastes the interpreter into a line for a shell.
        """
        station = self._stations[host]
        ready = self._ready(station, RAYLET)
        code = {"PYTHONPATH": station.path("bundles", ready.bundle)}
        return {"runtime_env": {"env_vars": code, "py_executable": shlex.quote(ready.python)}}

    def sent_bytes(self, host: str) -> int:
        """Code and environments sent to the host so far."""
        return self._stations[host].sent_bytes

    # -- bringing up --------------------------------------------------------------------------------------------------

    def _join_all(self) -> None:
        self.hosts, self.failed = [], {}
        # every machine is looked at before anything is changed on one
        boots = {}
        for name, facts in side_by_side({station.name: station.look for station in self._every()}).items():
            if isinstance(facts, PoolError):
                self._leave_out(name, facts)
            else:
                boots[name] = facts.boot
        if silent := self.failed.get(self._head_station.name):
            if self._starts:
                raise Unreachable(f"Ray's head is to run on {self._head_station.name}: {silent}")
            for name in self._specs.keys() - self.failed.keys():
                self._leave_out(name, PoolError(f"Ray's head is on {self._head_station.name}: {silent}"))
            return
        agreement.refuse_twins([spec for name, spec in self._specs.items() if name in boots], boots)
        if self._starts:
            agreement.claim([station for station in self._every() if station.name in boots], self._pool.root)
        with threads(1 + len(self._specs)) as executor:
            finding = executor.submit(self._find_head)
            joining = {name: executor.submit(self._join_found, name, finding) for name in self._specs if name in boots}
            self._head = finding.result()
            for name, future in joining.items():
                if isinstance(error := outcome(future), PoolError):
                    self._leave_out(name, error)
        self.hosts = [spec for name, spec in self._specs.items() if name not in self.failed]

    def _find_head(self) -> Head | None:
        """The head, started where there is none. None when it may not be. Raises PoolError."""
        station = self._head_station
        with station.turn:
            # before what is broken there is ended, and its record with it
            port = self._recorded_port()
            running = self._living(station, HEAD)
            if running is None and not self._starts:
                return None
            ready = self._ready(station, HEAD)
            secret = station.agent.token("token")
            wanted = {
                "token": hashlib.sha256(secret.encode()).hexdigest()[:16],
                "ray": ready.versions.ray,
                "python": ready.versions.python,
                "orphan_s": self._pool.orphan_s,
            }
            if running is not None and self._must_go(running, wanted, station.name, self._users):
                station.agent.stop_process(HEAD, GRACE_S)
                running = None
            if running is None:
                running = self._start_head(ready, wanted, port)
            return Head(running.info["address"], running.info["word"], secret, ready)

    def _recorded_port(self) -> int | None:
        try:
            return int(json.loads(self._head_station.agent.read("run/head.json"))["info"]["port"])
        except RemoteError:
            return None

    def _start_head(self, ready: Ready, settings: Mapping[str, object], port: int | None) -> Running:
        """At the port of an earlier one, if that can be: who still knows of it looks for it there."""
        station = self._head_station
        if port is not None:
            try:
                return self._start_head_at(port, ready, settings)
            except RemoteError as e:
                self._say(station.name, f"Ray's head takes another port than {port}: {e}")
        return self._start_head_at(station.agent.free_port(), ready, settings)

    def _start_head_at(self, port: int, ready: Ready, settings: Mapping[str, object]) -> Running:
        station, address = self._head_station, ready.facts.address
        folder, client_port = f"{station.scratch()}/h", station.agent.free_port()
        # by this, Ray 2.60 takes one that was killed at the same address for alive
        station.agent.run(["rm", "-f", f"{folder}/ray_current_cluster"])
        command = raylet.head(ready.python, address, port, client_port, folder)
        where = {"address": raylet.endpoint(address, port), "port": port, "word": secrets.token_hex(6)}
        return self._start(station, HEAD, command, {**settings, **where})

    def _join_found(self, host: str, finding: Future[Head | None]) -> str:
        """As `_join`, once the head is found; the code travels meanwhile."""
        if self._starts:
            self._stations[host].ready(self._bundle)
        head = finding.result()
        if head is None:
            raise PoolError(NOT_UP)
        return self._join(host, head)

    def _join(self, host: str, head: Head) -> str:
        """The word of the host's raylet, started where there is none. Raises PoolError."""
        station, spec = self._stations[host], self._specs[host]
        with station.turn:
            running = self._living(station, RAYLET)
            if running is None and not self._starts:
                raise PoolError(NOT_UP)
            ready = self._ready(station, RAYLET)
            agreement.refuse_unlike(ready, head.ready, self._head_station.name)
            wanted = {
                "head": head.word,
                "ray": ready.versions.ray,
                "python": ready.versions.python,
                "host": host,
                "labels": raylet.labels_of(spec),
                "accelerator": spec.target.model_dump(mode="json"),
                "orphan_s": self._pool.orphan_s,
            }
            self._give_token(station, head.secret)
            if running is not None and self._must_go(running, wanted, host, partial(users_of, station)):
                station.agent.stop_process(RAYLET, GRACE_S)
                running = None
            if running is None:
                running = self._start_raylet(station, spec, ready, head, wanted)
            return str(running.info["word"])

    def _start_raylet(
        self, station: Station, spec: HostSpec, ready: Ready, head: Head, settings: Mapping[str, object]
    ) -> Running:
        address, _, port = head.address.rpartition(":")
        try:
            station.errand(REACH, address.strip("[]"), port)
        except RemoteError as e:
            raise PoolError(
                f"it does not reach Ray's head at {head.address} ({e}): open the pool's machines to each other, or "
                "choose another `head`"
            ) from e
        word = secrets.token_hex(6)
        folder = f"{station.scratch()}/r"
        command = raylet.raylet(ready.python, head.address, ready.facts.address, folder, spec, word)
        return self._start(station, RAYLET, command, {**settings, "word": word})

    def _give_token(self, station: Station, secret: str) -> None:
        if not station.agent.exists("token") or station.agent.read("token").decode() != secret:
            station.agent.put("token", secret.encode(), 0o600)

    # -- processes ----------------------------------------------------------------------------------------------------

    def _living(self, station: Station, name: str) -> Running | None:
        """Ours by that name, if it works; what has lost Ray's servers is ended.

        One that is starting is none yet: whoever starts one waits for that.
        """
        agent = station.agent
        running = agent.process(name)
        if running is None or is_whole(name, running, station.survey()):
            return running
        has_started = agent.run(["grep", "-qF", raylet.READY, station.path("run", f"{name}.log")]).returncode == 0
        if self._starts and has_started:
            agent.stop_process(name, GRACE_S)
        return None

    def _must_go(
        self, running: Running, wanted: Mapping[str, object], machine: str, users: Callable[[], list[str]]
    ) -> bool:
        """Whether one that was started otherwise is to be replaced: not while it is used. Raises PoolError."""
        differ = [key for key, value in wanted.items() if running.info.get(key) != value]
        if not differ:
            return False
        what = ", ".join(differ)
        is_useless = not NEEDED.isdisjoint(differ)
        if not self._starts:
            if is_useless:
                raise PoolError(f"Ray there was started with another {what}: `hillclimb pool up` replaces it")
            return False
        # nobody reaches a raylet of a head that is gone
        in_use = [] if "head" in differ else users()
        if not in_use:
            return True
        if is_useless:
            raise PoolInUse(
                f"Ray there was started with another {what}, and {'; '.join(in_use)}: wait for the end, or end it with "
                "`hillclimb pool down --force`"
            )
        self._say(machine, f"Ray keeps the {what} it was started with: {'; '.join(in_use)}")
        return False

    def _start(self, station: Station, name: str, command: list[str], info: Mapping[str, object]) -> Running:
        if station.agent.exists(agreement.DOWN):
            raise PoolError("somebody took the pool down: `hillclimb pool up` brings it up again")
        began = time.monotonic()
        station.errand(ROOM, station.scratch())
        ready = station.ready(self._bundle)
        info = {**info, "interpreter": ready.python, "bundle": ready.bundle}
        # who attaches runs it, so that it is not unused (`infra.remote.unused`)
        env = self._environment(station) | {"HILLCLIMB_BUNDLE": station.path("bundles", ready.bundle)}
        left = TRIES
        while True:
            left -= 1
            try:
                running = station.agent.start_process(name, command, env, info, raylet.READY, raylet.START_S)
            except RemoteError as e:
                if left == 0 or raylet.GAVE_UP not in str(e):
                    raise
            else:
                self._say(station.name, f"Ray's {name} started in {time.monotonic() - began:.0f} s")
                return running

    def _ready(self, station: Station, name: str) -> Ready:
        """What there is to run with: our code, or, where nothing may be started, what its Ray was started with.

        A look must neither send nor import anything on a machine that may be measuring. Raises PoolError.
        """
        if self._starts:
            return station.ready(self._bundle)
        running = station.agent.process(name)
        if running is None:
            raise PoolError(NOT_UP)
        info, facts = running.info, station.look()
        return Ready(facts, info["interpreter"], Versions(info["python"], info["ray"]), info["bundle"])

    def _environment(self, station: Station) -> dict[str, str]:
        return raylet.environment(station.path("token"), self._pool.orphan_s)

    def _users(self) -> list[str]:
        """Who uses which host. One that does not answer may be used: by somebody whom it does answer."""
        found = side_by_side({name: partial(users_of, station) for name, station in self._stations.items()})
        unknown = ["it does not answer, and may be in use"]
        return [
            f"{name}: {user}"
            for name, users in found.items()
            for user in (unknown if isinstance(users, PoolError) else users)
        ]

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _station(self, machine: Machine) -> Station:
        return Station(machine, self._pool.root, self._pool.index, partial(self._say, machine.name))

    def _every(self) -> list[Station]:
        """The stations of all machines, the head's among them."""
        return list({station.name: station for station in (*self._stations.values(), self._head_station)}.values())

    def _current_head(self) -> Head:
        """The head as it is now; one that is gone is started again. Raises PoolError."""
        head = self._find_head()
        if head is None:
            raise PoolError(f"{self._head_station.name}: {NOT_UP}")
        self._head = head
        return head

    def _known_head(self) -> Head:
        assert self._head is not None, "of a cluster that is up"
        return self._head

    def _leave_out(self, name: str, error: PoolError) -> None:
        self.failed[name] = str(error).removeprefix(f"{name}: ")
        if self._starts:
            self._say(name, self.failed[name])

    def _say(self, name: str, line: str) -> None:
        with self._telling:
            self._tell(f"{name}: {line}")


def is_whole(name: str, running: Running, survey: Survey) -> bool:
    """Whether all of Ray's servers that belong to a process of that name live: it may outlive them."""
    return SERVERS[name] <= set(survey.sessions.get(str(running.pid), []))


def users_of(station: Station) -> list[str]:
    """Who uses the pool's host on that machine, if anybody does. Raises PoolError."""
    holder = station.survey().holder
    return [] if holder is None else [user_in(holder)]


def user_in(lock: str) -> str:
    """Whom the text of a lock file names."""
    try:
        held = HostHeld.model_validate_json(lock)
    except ValidationError:
        return "in use"
    return f"{held.user} ({held.controller}) has it since {held.since}"
