"""The faults of a soak: drawn from a seeded deck, done to real processes, lifted again, and written down.

A deck holds every fault at least once, so a soak that lasts for one deck has seen them all. What was done is told by
`fired` in the order it was done; nothing here knows what it ought to cause.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.cluster import Cluster
from tests.processes import children, stat
from tests.soak.driver import Driver


class Fault(Enum):
    RUNNER_KILL = "runner SIGKILL"
    RUNNER_STOP = "runner SIGSTOP"
    ACTOR_KILL = "actor SIGKILL"
    ACTOR_STOP = "actor SIGSTOP"
    RAYLET_KILL = "raylet SIGKILL"
    RAYLET_TERM = "raylet SIGTERM"
    RAYLET_STOP = "raylet SIGSTOP"
    CONTROLLER_KILL = "controller SIGKILL"
    CONTROLLER_TERM = "controller SIGTERM"
    CONTROLLER_STOP = "controller SIGSTOP"
    DISK_FULL = "spool's disk full"


# A runner dies often, a machine rarely: a raylet takes ten seconds of both processors of a small machine to come back.
DECK = (*Fault, *[Fault.RUNNER_KILL] * 4, Fault.ACTOR_KILL, Fault.ACTOR_STOP, Fault.RUNNER_STOP, Fault.CONTROLLER_KILL)

# Seconds that a stop lasts: a host is given up as lost after 15, a runner's phase here after 30.
STOP_S = {
    Fault.RUNNER_STOP: (1.0, 10.0),
    Fault.ACTOR_STOP: (1.0, 25.0),
    Fault.RAYLET_STOP: (1.0, 25.0),
    Fault.CONTROLLER_STOP: (1.0, 20.0),
    Fault.DISK_FULL: (5.0, 15.0),
}

# Until somebody notices that a machine is gone and starts it again.
DOWN_S = (0.0, 20.0)

# More than twice what a host wants free, with the compile cache of the real jobs beside it.
DISK_BYTES = 256 << 20


class Fired(NamedTuple):
    """A fault that was done: to which process, on which host ("" for the controller's), and until when."""

    fault: Fault
    host: str
    pid: int
    start_time: int
    at_ns: int
    until_ns: int


class Lift(NamedTuple):
    due: float
    place: int
    undo: Callable[[], None]


class SmallDisk:
    """A host's state on a file system of its own, that can be filled."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, mode=0o700)
        self._state = state
        self._ballast = state / "ballast"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "soak", state], check=True)

    def fill(self) -> None:
        """Until nothing fits, whatever is written or removed meanwhile."""
        with suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 20))

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def end(self) -> None:
        subprocess.run(["umount", "--lazy", self._state], check=True)


class Chaos:
    """Strikes when called. `fired` grows with every fault."""

    def __init__(
        self, rng: random.Random, cluster: Cluster, hosts: Sequence[str], driver: Driver, disks: dict[str, SmallDisk]
    ) -> None:
        self.fired: list[Fired] = []
        self._rng = rng
        self._cluster = cluster
        self._hosts = hosts
        self._driver = driver
        self._disks = disks
        self._deck: list[Fault] = []
        self._lifts: list[Lift] = []
        self._starting: dict[str, tuple[int, Future[None]]] = {}
        self._down: set[str] = set()
        # raylets come back one by one: two at once take twice as long
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="raylets")

    @property
    def faults(self) -> list[Fault]:
        """Those that can be done here: a small disk takes the right to mount."""
        return [f for f in DECK if f is not Fault.DISK_FULL or self._disks]

    def strike(self) -> bool:
        """The next fault, if its target is there now."""
        if not self._deck:
            self._deck = self.faults
            self._rng.shuffle(self._deck)
        if not self._do(self._deck[0]):
            return False
        del self._deck[0]
        return True

    def postpone(self) -> None:
        """The next fault later: its target does not come."""
        self._deck.append(self._deck.pop(0))

    def tend(self) -> None:
        """Lifts what is due, and sees to the raylets that are being started."""
        for lift in [lift for lift in self._lifts if lift.due <= time.monotonic()]:
            self._lift(lift)
        for host, (index, start) in list(self._starting.items()):
            if not start.done():
                continue
            if isinstance(start.exception(), AssertionError):  # not in time: the machine has much to do
                self._start(host, index)
                continue
            start.result()
            del self._starting[host]
            self._down.discard(host)
            self._over(index)

    def stop(self) -> None:
        """Lifts everything; raylets take their time to come back."""
        for lift in list(self._lifts):
            self._lift(lift)

    def end(self) -> None:
        """Waits until nothing is under way any more."""
        self.stop()
        self._pool.shutdown()

    def log(self) -> list[dict[str, object]]:
        """What was done, to be written to a file."""
        return [fired._asdict() | {"fault": fired.fault.value} for fired in self.fired]

    def _lift(self, lift: Lift) -> None:
        self._lifts.remove(lift)
        lift.undo()
        self._over(lift.place)

    def _over(self, index: int) -> None:
        self.fired[index] = self.fired[index]._replace(until_ns=time.time_ns())

    def _start(self, host: str, index: int) -> None:
        self._starting[host] = index, self._pool.submit(self._cluster.start, host)

    def _do(self, fault: Fault) -> bool:
        hosts = [host for host in self._hosts if host not in self._down]
        self._rng.shuffle(hosts)
        match fault:
            case Fault.RUNNER_KILL:
                return any(self._signal(fault, host, self.runner(host), signal.SIGKILL) for host in hosts)
            case Fault.RUNNER_STOP:
                return any(self._stop(fault, host, self.runner(host)) for host in hosts)
            case Fault.ACTOR_KILL:
                return any(self._signal(fault, host, self.actor(host), signal.SIGKILL) for host in hosts)
            case Fault.ACTOR_STOP:
                return any(self._stop(fault, host, self.actor(host)) for host in hosts)
            case Fault.RAYLET_KILL:
                return any(self._take_down(fault, host, signal.SIGKILL) for host in hosts)
            case Fault.RAYLET_TERM:
                return any(self._take_down(fault, host, signal.SIGTERM) for host in hosts)
            case Fault.RAYLET_STOP:
                return any(self._stop(fault, host, self.raylet(host)) for host in hosts)
            case Fault.CONTROLLER_KILL:
                return self._signal(fault, "", self._driver.pid, signal.SIGKILL)
            case Fault.CONTROLLER_TERM:
                return self._signal(fault, "", self._driver.pid, signal.SIGTERM)
            case Fault.CONTROLLER_STOP:
                return self._stop(fault, "", self._driver.pid)
            case Fault.DISK_FULL:
                return self._fill_disk()

    # -- who is where -------------------------------------------------------------------------------------------------

    def raylet(self, host: str) -> int | None:
        try:
            return self._cluster.raylet(host)
        except ValueError:  # it has just ended
            return None

    def actor(self, host: str) -> int | None:
        try:
            return self._cluster.actor(host)
        except ValueError:
            return None

    def runner(self, host: str) -> int | None:
        actor = self.actor(host)
        found = children(actor, "workers.runner") if actor else []
        return found[0] if found else None

    # -- what is done to it -------------------------------------------------------------------------------------------

    def _signal(self, fault: Fault, host: str, pid: int | None, number: signal.Signals) -> bool:
        if pid is None:
            return False
        try:
            started = int(stat(pid)[19])
            os.kill(pid, number)
        except OSError:
            return False
        now = time.time_ns()
        self.fired.append(Fired(fault, host, pid, started, now, now))
        return True

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        """Lifts the fault that was done last."""
        self._lifts.append(Lift(time.monotonic() + seconds, len(self.fired) - 1, undo))

    def _stop(self, fault: Fault, host: str, pid: int | None) -> bool:
        if not self._signal(fault, host, pid, signal.SIGSTOP):
            return False
        stopped = self.fired[-1]

        def go_on() -> None:
            with suppress(OSError):
                if int(stat(stopped.pid)[19]) == stopped.start_time:
                    os.kill(stopped.pid, signal.SIGCONT)

        self._later(self._rng.uniform(*STOP_S[fault]), go_on)
        return True

    def _take_down(self, fault: Fault, host: str, number: signal.Signals) -> bool:
        if not self._signal(fault, host, self.raylet(host), number):
            return False
        self._down.add(host)
        index = len(self.fired) - 1
        self._later(self._rng.uniform(*DOWN_S), partial(self._start, host, index))
        return True

    def _fill_disk(self) -> bool:
        host = self._rng.choice(sorted(self._disks))
        disk = self._disks[host]
        disk.fill()
        now = time.time_ns()
        self.fired.append(Fired(Fault.DISK_FULL, host, 0, 0, now, now))
        self._later(self._rng.uniform(*STOP_S[Fault.DISK_FULL]), disk.empty)
        return True
