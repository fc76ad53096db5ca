"""Work on many machines at once, a thread each: what failed on one is that one's outcome, and holds up no other."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from infra.pool import PoolError

Result = TypeVar("Result")


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Left early, by an error or a signal, it waits for nobody: whoever leaves closes the connections, and with them
    ends what is still under way."""
    executor = ThreadPoolExecutor(count)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def outcome(future: Future[Result]) -> Result | PoolError:
    """Waits for it. What is no PoolError is a bug, and raised."""
    try:
        return future.result()
    except PoolError as error:
        return error


def side_by_side(works: Mapping[str, Callable[[], Result]]) -> dict[str, Result | PoolError]:
    """All outcomes, in the order of `works`."""
    with threads(len(works)) as executor:
        futures = {name: executor.submit(work) for name, work in works.items()}
        outcomes: dict[str, Result | PoolError] = {}
        for name, future in futures.items():
            done = outcome(future)
            outcomes[name] = done
        return outcomes
