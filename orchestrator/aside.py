"""Blocking work in a thread that keeps nobody from leaving.

The threads of an executor are waited for when a loop or a process ends; one that hangs in a connection, until somebody
notices that the other end is gone, would hold up a controller that was told to go.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from core.errors import HillclimbError

Result = TypeVar("Result")


def aside(work: Callable[[], Result], name: str) -> Future[Result]:
    """Begins `work`, which goes on when nobody waits for it any more."""
    future = promised(Future[Result]())

    def run() -> None:
        try:
            future.set_result(work())
        except HillclimbError as error:
            future.set_exception(error)
        except BaseException as bug:
            future.set_exception(bug)
            # where nobody waits it would be lost
            raise

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def promised(future: Future[Result]) -> Future[Result]:
    """The same, no longer to be cancelled by a task that waits for it: others may wait too."""
    future.set_running_or_notify_cancel()
    return future
