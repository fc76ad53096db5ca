"""Lines from a runner into events: the host's side of the one wire language."""

from core.events import RUNNER_EVENT, Compiled, Environment, Metric, PhaseBegan, RunEnded, Samples

RunnerEvent = Environment | PhaseBegan | Compiled | Metric | Samples | RunEnded

# The longest event is 16 KiB of stderr or some thousand samples. A runner that writes more in one line is writing
# something else, and must not fill the actor's memory with it.
LINE_BYTES = 1 << 20


class NoEvent(Exception):
    """The runner wrote something that is no event; says what."""


class Lines:
    """Splits what arrives into lines and reads each as an event. A last line without its newline is never read."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[RunnerEvent], NoEvent | None]:
        """The events that are complete now, up to the first line that is none."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        events: list[RunnerEvent] = []
        for line in lines:
            try:
                events.append(RUNNER_EVENT.validate_json(line))
            except ValueError:
                return events, NoEvent(f"a line that is no event: {line[:200]!r}")
        if len(self._rest) > LINE_BYTES:
            return events, NoEvent(f"a line longer than {LINE_BYTES} bytes: {self._rest[:200]!r}")
        return events, None
