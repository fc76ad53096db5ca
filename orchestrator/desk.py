"""What the controller makes of one host: observations, misses and ended visits fold into a state.

A host is usable only after a clean probe of its present actor. What is wrong with it decides what it goes through:
the ladder (`recovering`), or quarantine, which decays. Times are the controller's own monotonic seconds, given by the
caller. Nothing here talks to anybody, and quarantine itself is the plan's decision.
"""

from collections import deque
from collections.abc import Collection
from functools import cache

from core.failures import Blame, Effect, Kind, blame, effect
from core.lifecycle import TRANSITIONS, HostState, check
from core.protocol import Answer, Mode, Observation
from infra.pool import HostSpec
from orchestrator.plan import HostView

# After a visit that failed through the host: long enough for a dying process to let go of an accelerator (seconds, in
# the field), short enough to lose no evening. The second wait, and every further one, is the longer.
BACKOFF_S = (5.0, 30.0)

# A fault counts half as much after this long: a host that fails a visit a day is a good one, one that fails every five
# minutes is not, however often it works in between.
FAULT_HALF_LIFE_S = 600.0

# Three faults in quick succession are too many, and so are four of which each comes five minutes after the last.
TOO_MANY_FAULTS = 2.5

# A quarantine lasts this long, then a clean probe ends it; every further one lasts twice as long, up to the cap, and an
# hour without one takes one doubling back.
QUARANTINE_S = 60.0
QUARANTINE_CAP_S = 3600.0
FORGIVEN_S = 3600.0

# A pool that can replace a host is asked to at most this often, and every further time after twice as long: machines
# cost money, and one that is new needs minutes until it answers. Only a person's release begins anew.
REALLOCATE_S = 1800.0

# Nobody's fault but the controllers': they did not call.
_NOT_THE_HOST_S = frozenset({Kind.ORPHANED})


class Desk:
    """One host's record. `view()` is what a plan may know of it, `mode` what its next call should ask for."""

    def __init__(self, spec: HostSpec) -> None:
        self.spec = spec
        self.state = HostState.UNKNOWN
        self.reason = ""
        self.alive: frozenset[int] = frozenset()
        self._is_done = False
        self.loss: Kind | None = None
        self.not_before = 0.0
        self._faults = 0.0
        self._faults_at = 0.0
        self._set_aside = ""
        self._recovery_due = False
        self._quarantines = 0
        self._quarantined_until = 0.0
        self._quarantined_at = 0.0
        self._quarantined_why = ""
        self._releases: int | None = None
        self._preempted = False
        self._unrecovered = False
        self._reallocations = 0
        self._reallocate_from = 0.0

    @property
    def mode(self) -> Mode:
        return Mode.RECOVER if self.state is HostState.RECOVERING else Mode.RUN

    def view(self) -> HostView:
        return HostView(
            name=self.spec.name,
            machine=self.spec.machine,
            state=self.state,
            reason=self.reason,
            alive=self.alive,
            is_done=self._is_done,
            loss=self.loss,
            set_aside=self._set_aside,
            not_before=self.not_before,
        )

    # -- what is heard ------------------------------------------------------------------------------------------------

    def on_down(self, reason: str) -> None:
        """There is no actor to ask: nothing is known until a new one has probed. A quarantine stands."""
        self.alive = frozenset()
        self._is_done = False
        if self.state is not HostState.QUARANTINED:
            self._to(HostState.UNKNOWN, reason)

    def on_miss(self, loss: Kind | None, reason: str) -> None:
        """A call went unanswered; `loss`: what became of the host, when enough did. One that had said that it would be
        taken away was."""
        if loss is not None and self._preempted:
            loss, reason = Kind.PREEMPTED, f"it was preempted: {reason}"
        self.loss = loss
        if self.state in {HostState.READY, HostState.BUSY}:
            self._to(HostState.SUSPECT, reason)
        if loss is not None and self.state is not HostState.QUARANTINED:
            self._to(HostState.UNKNOWN, reason)

    def on_cut_off(self, reason: str) -> None:
        """Nobody could ask it. The newest reason is the one to act on: it may be for a person to mend."""
        if self.state in {HostState.READY, HostState.BUSY, HostState.SUSPECT}:
            self._to(HostState.SUSPECT, reason)

    def on_observation(self, seen: Observation, now: float) -> None:
        """A fresh answer of the host to this controller."""
        self.loss = None
        self._is_done = seen.answer is Answer.OBEYED and not (seen.alive or seen.entries)
        if seen.answer is Answer.HELD:
            self.alive = frozenset()
            who = f"held by {seen.held.user} ({seen.held.controller}) since {seen.held.since}" if seen.held else "held"
            self._to(HostState.HELD, who)
            return
        self.alive = frozenset(a.visit for a in seen.alive)
        if self._releases is not None and seen.releases > self._releases:
            self._begin_anew()
            self._quarantines = self._reallocations = 0
            self._reallocate_from = 0.0
        self._releases = seen.releases
        self._preempted = seen.probe is not None and seen.probe.kind is Kind.PREEMPTED
        self._to(*self._what_it_is(seen, now))

    def _what_it_is(self, seen: Observation, now: float) -> tuple[HostState, str]:
        """The state and its reason, from what the host shows and what is known of it."""
        probe = seen.probe
        if self._climbed(seen):
            self._recovery_due = False
            if probe is not None and probe.clean:
                self.not_before = 0.0  # the wait was for what the ladder has now seen to
                self._unrecovered = False
            elif probe is not None:
                self._set_aside = f"not recovered: {probe.reason}"
                # another machine instead of this one would end somebody's work
                self._unrecovered = not probe.in_use
        if seen.draining:
            is_over = not self.alive and not seen.entries
            return (HostState.DRAINED if is_over else HostState.DRAINING), seen.draining
        if now < self._quarantined_until and not self.alive:
            return HostState.QUARANTINED, self._quarantined_why
        if probe is None:
            return HostState.PROBING, self.reason
        if self.alive:
            return HostState.BUSY, ""
        if not probe.clean and not self._set_aside:
            match effect(probe.kind) if probe.kind else Effect.RECOVER:
                case Effect.RECOVER:
                    self._recovery_due = True
                case Effect.QUARANTINE:
                    self._set_aside = probe.reason
                case Effect.NOTHING:
                    pass
        if self._recovery_due:
            return HostState.RECOVERING, probe.reason or self.reason
        return (HostState.READY, "") if probe.clean else (HostState.PROBING, probe.reason)

    def _climbed(self, seen: Observation) -> bool:
        """The ladder that this controller asked for is at its end, and the probe is the one after it."""
        return self.state is HostState.RECOVERING and seen.mode is Mode.RECOVER and not seen.recovering

    def on_visit_ended(self, kinds: Collection[Kind], reason: str, now: float) -> None:
        """`kinds`: of the failures of the visit and of its runs. The job's own are not the host's."""
        faults = [kind for kind in kinds if blame(kind) is Blame.HOST and kind not in _NOT_THE_HOST_S]
        if not faults:
            return
        self._count(reason, now)
        effects = {effect(kind) for kind in faults}
        if Effect.QUARANTINE in effects:
            self._set_aside = reason
        elif Effect.RECOVER in effects:
            self._recovery_due = True

    def on_visit_lost(self, reason: str, now: float) -> None:
        self._count(reason, now)

    # -- quarantine ---------------------------------------------------------------------------------------------------

    def quarantine(self, why: str, now: float) -> None:
        """Set aside until a clean probe after some time. What it did before is paid for."""
        level = max(0, self._quarantines - int((now - self._quarantined_at) // FORGIVEN_S))
        self._quarantined_at = now
        self._quarantined_until = now + min(QUARANTINE_S * 2**level, QUARANTINE_CAP_S)
        self._quarantined_why = why
        self._quarantines = level + 1
        self._faults = 0.0
        self._set_aside = ""
        self._recovery_due = False
        self._to(HostState.QUARANTINED, why)

    # -- another machine in its place ---------------------------------------------------------------------------------

    def needs_reallocation(self, now: float) -> bool:
        """The ladder could not free it, or its provider has taken it away. Once for each, and ever more seldom."""
        is_helpless = self.state is HostState.QUARANTINED and self._unrecovered and not self.alive
        return (is_helpless or self.loss is Kind.PREEMPTED) and now >= self._reallocate_from

    def on_reallocation(self, now: float) -> None:
        """The pool was asked for another machine; it has said whether there is one."""
        self._unrecovered = False
        self._reallocate_from = now + REALLOCATE_S * 2**self._reallocations
        self._reallocations += 1

    def on_reallocated(self) -> None:
        """Another machine is in its place: nothing is known of it."""
        self._begin_anew()
        self.alive = frozenset()
        self._to(HostState.UNKNOWN, "its machine was replaced")

    def _begin_anew(self) -> None:
        """What is known against it counts no more."""
        self._quarantined_until = self._faults = self.not_before = 0.0
        self._set_aside = ""
        self._recovery_due = self._unrecovered = self._preempted = False

    def _count(self, reason: str, now: float) -> None:
        """One fault more, while the older ones fade."""
        self._faults = 1.0 + self._faults * 0.5 ** ((now - self._faults_at) / FAULT_HALF_LIFE_S)
        self._faults_at = now
        self.not_before = now + BACKOFF_S[min(round(self._faults), len(BACKOFF_S)) - 1]
        if self._faults >= TOO_MANY_FAULTS:
            self._set_aside = f"it failed again and again: {reason}"

    def _to(self, state: HostState, reason: str) -> None:
        for after in _way(self.state, state):
            check(self.state, after)
            self.state = after
        self.reason = reason


@cache
def _way(before: HostState, after: HostState) -> tuple[HostState, ...]:
    """The states between two, and the last: a host that was held or set aside is looked at before anything is made
    of it."""
    ways: deque[tuple[HostState, ...]] = deque([()])
    while True:
        way = ways.popleft()
        at = way[-1] if way else before
        if at is after:
            return way
        ways.extend((*way, HostState(step)) for step in sorted(TRANSITIONS[at]))
