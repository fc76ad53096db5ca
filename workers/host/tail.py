"""The output of a process, kept within bounds: its first lines say what it was, its last ones why it ended."""

# Together with the mark between them these stay below the 16 KiB of `core.events.StderrTail`.
HEAD_BYTES = 4 << 10
TAIL_BYTES = (12 << 10) - 64


class Tail:
    """The head and the tail of everything fed."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._fed = 0

    def feed(self, data: bytes) -> None:
        self._fed += len(data)
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail = (self._tail + data[max(room, 0) :])[-TAIL_BYTES:]

    def text(self) -> str:
        left_out = self._fed - len(self._head) - len(self._tail)
        mark = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
        return (self._head + mark + self._tail).decode(errors="replace")
