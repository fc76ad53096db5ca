"""An event loop on a clock of somebody else's, run one callback at a time.

A controller lives on one of these. Not running it is SIGSTOP, dropping it between two callbacks is SIGKILL, and what
reaches it meanwhile waits as it would in a socket. It never waits, has no threads and opens nothing.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any


class VirtualLoop(asyncio.BaseEventLoop):
    """`clock`: seconds, shared with everything else of the simulation."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._now = clock
        # what a task that is buried with its controller still had to say is nobody's business
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self._now()

    def due(self) -> float:
        """When it next has something to do; infinity when it waits for others only."""
        if self._ready:
            return self._now()
        timers: list[Any] = self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False
        return timers[0].when() if timers else float("inf")

    def step(self) -> None:
        """One callback: the oldest that is ready, timers that are due behind those that were woken by others."""
        timers: list[Any] = self._scheduled
        now = self._now()
        while timers and timers[0].when() <= now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)
        handle = self._ready.popleft()
        if handle.cancelled():
            return
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(outer)

    def bury(self) -> None:
        """Unwinds every task, so that nothing of a dead controller is left behind. It can have no effect any more."""
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            while self._ready:
                self.step()
        self.close()
