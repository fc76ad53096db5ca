"""What the controller makes of one host: observations, misses and ended visits fold into a state.

A host is usable only after a clean probe of its present actor. Times are the controller's own monotonic seconds, given
by the caller. Nothing here talks to anybody.
"""

from core.lifecycle import HostState, check
from core.protocol import Answer, Observation
from infra.pool import HostSpec
from orchestrator.plan import BAD_VISITS, HostView

# After the first and the second bad visit in a row: long enough for a dying process to let go of an accelerator
# (seconds, in the field), short enough to lose no evening.
BACKOFF_S = (5.0, 30.0)

# A quarantine ends with the next clean probe after this long; every further one lasts twice as long, up to the cap.
QUARANTINE_S = 60.0
QUARANTINE_CAP_S = 3600.0


class Desk:
    """One host's record. `view()` is what a plan may know of it."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec
        self.state = HostState.UNKNOWN
        self.reason = ""
        self.alive: frozenset[int] = frozenset()
        self.lost = False
        self.bad_visits = 0
        self.trouble = ""
        self.not_before = 0.0
        self.quarantines = 0

    def view(self) -> HostView:
        return HostView(
            name=self.spec.name,
            machine=self.spec.machine,
            state=self.state,
            reason=self.reason,
            trouble=self.trouble,
            alive=self.alive,
            lost=self.lost,
            bad_visits=self.bad_visits,
            not_before=self.not_before,
        )

    def on_down(self, reason: str) -> None:
        """There is no actor to ask: nothing is known until a new one has probed."""
        self._to(HostState.UNKNOWN, reason)
        self.alive = frozenset()

    def on_miss(self, lost: bool, reason: str) -> None:
        """A call went unanswered; `lost` when enough did."""
        if self.state in {HostState.READY, HostState.BUSY}:
            self._to(HostState.SUSPECT, reason)
        if lost:
            self.lost = True
            self._to(HostState.UNKNOWN, reason)

    def on_observation(self, seen: Observation, now: float) -> None:
        """A fresh answer of the host to this controller."""
        self.lost = False
        if seen.answer is Answer.HELD:
            who = f"held by {seen.held.user} ({seen.held.controller}) since {seen.held.since}" if seen.held else "held"
            self._to(HostState.HELD, who)
            return
        self.alive = frozenset(a.visit for a in seen.alive)
        if seen.draining:
            if self.state is not HostState.DRAINED:
                self._to(HostState.DRAINING, seen.draining)
            if not self.alive and not seen.entries:
                self._to(HostState.DRAINED, seen.draining)
            return
        if self.state in {HostState.HELD, HostState.DRAINING, HostState.DRAINED}:
            self._to(HostState.UNKNOWN, "")
        if self.state is HostState.UNKNOWN:
            self._to(HostState.PROBING, "")
        if seen.probe is None:
            return
        match self.state:
            case HostState.QUARANTINED:
                if now >= self.not_before and seen.probe.clean:
                    self._to(HostState.PROBING, "")
                    self._to(HostState.READY, "")
            case HostState.PROBING | HostState.SUSPECT | HostState.READY | HostState.BUSY:
                if not seen.probe.clean:
                    self._to(HostState.UNKNOWN, seen.probe.reason)
                    self._to(HostState.PROBING, seen.probe.reason)
                    return
                if self.state is not HostState.BUSY:
                    self._to(HostState.READY, "")
                self._to(HostState.BUSY if self.alive else HostState.READY, "")

    def on_visit_ended(self, useful: bool, reason: str, now: float) -> None:
        """`useful`: at least one of its runs ended for good, well or by the job's own fault."""
        if useful:
            self.bad_visits = self.quarantines = 0
            return
        self.bad_visits += 1
        self.trouble = reason
        if self.bad_visits < BAD_VISITS:
            self.not_before = now + BACKOFF_S[self.bad_visits - 1]

    def quarantine(self, why: str, now: float) -> None:
        self._to(HostState.QUARANTINED, why)
        self.not_before = now + min(QUARANTINE_S * 2**self.quarantines, QUARANTINE_CAP_S)
        self.quarantines += 1
        # one more bad visit after its release sets it aside again
        self.bad_visits = BAD_VISITS - 1

    def _to(self, state: HostState, reason: str) -> None:
        if state is not self.state:
            check(self.state, state)
            self.state = state
        self.reason = reason
