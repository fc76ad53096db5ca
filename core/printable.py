"""Text that came from elsewhere, as a terminal may show it: what a host or a runner says never moves a reader's cursor.

Whatever writes for people passes its lines through this; what is stored, and what programs read, stays as it was said.
"""


def printable(text: str) -> str:
    """Control characters are written out; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
