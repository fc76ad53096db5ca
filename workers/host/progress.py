"""How far a runner is, as far as its events tell."""

from dataclasses import dataclass, field

from core.events import PhaseBegan, RunEnded
from core.visit import Phase
from workers.host.wire import NoEvent, RunnerEvent


@dataclass
class Progress:
    """Where one runner is: its phase and slot since when, and the slots whose run it has still to end."""

    phase: Phase = Phase.START
    slot: int | None = None
    since: float = 0.0
    pending: set[int] = field(default_factory=set)

    @property
    def has_reached_a_slot(self) -> bool:
        return self.phase not in (Phase.START, Phase.INIT)

    @property
    def where(self) -> str:
        return f"in {self.phase}" + ("" if self.slot is None else f" of slot {self.slot}")

    def take(self, event: RunnerEvent, now: float) -> NoEvent | None:
        """Follow one event; returns what is wrong with it when it cannot come from this runner."""
        slot = getattr(event, "slot", None)
        if slot is not None and slot not in self.pending:
            return NoEvent(f"an event {event.event!r} for slot {slot}, which this process does not run or has ended")
        match event:
            case PhaseBegan():
                self.phase, self.slot, self.since = event.phase, event.slot, now
            case RunEnded():
                self.pending.discard(event.slot)
                self.slot, self.since = None, now
            case _:
                pass
        return None
