"""The code of commits on hosts: what has been put there, what is on its way, and what could not be.

Code is put on a host before a visit that runs it is leased, so that no visit waits for it: neither other hosts nor the
conversation with this one notice. What failed is said once and tried again, ever more seldom. How code travels is the
transport's, what a bundle holds `infra.bundle`'s.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from core.errors import HillclimbError
from core.visit import BundleRef
from infra.bundle import Bundle
from orchestrator.plan import HostView, Unplaced

# A link that is cut for a moment heals within seconds; a disk that is full waits for a person.
BACKOFF_S = 5.0
BACKOFF_CAP_S = 60.0

ONE_CODE = (
    "the hosts of a ray pool run the code that is on them: leave `code` out, or take the local pool or one of kind ssh"
)

CODE_CHANGED = "the code changed while this ran: run the matrix again with `--again` or `--same-series`"

# By a job's `code`; raises HillclimbError. None, which only "" may have: the hosts' own code is the working tree.
Bundles = Callable[[str], Bundle | None]


class Placing:
    """Puts commits' code on hosts. `put` says why it could not, or ""; `changed` is called when there is news."""

    def __init__(
        self,
        bundles: Bundles,
        put: Callable[[str, Bundle], Awaitable[str]],
        say: Callable[[str], None],
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._bundles = bundles
        self._put = put
        self._say = say
        self._clock = clock
        self._changed = changed
        self._placed: dict[str, set[str]] = defaultdict(set)
        self._unplaced: dict[str, dict[str, Unplaced]] = defaultdict(dict)
        self._waits: dict[tuple[str, str], float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> Sequence[asyncio.Task[None]]:
        """What is under way; one that is done has failed as nothing of this should."""
        return list(self._tasks.values())

    def seen_in(self, view: HostView) -> HostView:
        """A host as the plan sees it, with the code that is there."""
        name = view.name
        placed, unplaced = frozenset(self._placed[name]), dict(self._unplaced[name])
        return view._replace(codes=placed, placing=name in self._tasks, unplaced=unplaced)

    def begin(self, host: str, codes: Iterable[str]) -> None:
        """Starts to put these commits' code on a host where nothing is under way."""
        self._tasks[host] = asyncio.create_task(self._place(host, codes))

    def forget(self, host: str) -> None:
        """Nothing is known of what is there any more: it is put there again, which costs nothing where it is."""
        self._placed[host].clear()

    def refs(self, codes: Iterable[str]) -> dict[str, BundleRef]:
        """What a visit is told of the code of its commits. Those that are not known here are left out, and said."""
        found = {}
        for code in codes:
            try:
                bundle = self._bundles(code)
            except HillclimbError as error:
                self._say(str(error))
                continue
            if bundle is not None:
                found[code] = BundleRef(id=bundle.id, code=bundle.code)
        return found

    async def close(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def _place(self, host: str, codes: Iterable[str]) -> None:
        for code in codes:
            why = await self._try(host, code)
            if why:
                self._failed(host, code, why)
            else:
                self._placed[host].add(code)
                self._unplaced[host].pop(code, None)
                self._waits.pop((host, code), None)
        del self._tasks[host]
        self._changed()

    async def _try(self, host: str, code: str) -> str:
        try:
            bundle = self._bundles(code)
        except HillclimbError as error:
            return str(error)
        return await self._put(host, bundle) if bundle is not None else ""

    def _failed(self, host: str, code: str, why: str) -> None:
        before = self._unplaced[host].get(code)
        if before is None or before.why != why:
            self._say(f"the code of commit {code[:12]} is not on {host}: {why}; it is tried again")
        wait_s = min(2 * self._waits.get((host, code), BACKOFF_S / 2), BACKOFF_CAP_S)
        self._waits[host, code] = wait_s
        self._unplaced[host][code] = Unplaced(why, self._clock() + wait_s)
