"""What a person is told when something is wrong on their side: one sentence that ends in what to do about it."""


class HillclimbError(Exception):
    """Shown as one line on stderr. `exit_code` 2: usage or invalid input."""

    exit_code = 2
