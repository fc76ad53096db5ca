"""The name of a bundle's mark: the file beside a bundle on a host that says which interpreter runs it.

Two pool files may share a host's folder and name different interpreters there. Each has a mark of its own, so that what
one puts there does not reach into a visit of the other.
"""

import hashlib

# Enough to tell the few interpreters of a host from each other.
_DIGITS = 8


def mark_of(bundle: str, python: str) -> str:
    """`bundle`: its id. `python`: the interpreter that the pool file names; "": that of the bundle's environment."""
    whose = f".{hashlib.sha256(python.encode()).hexdigest()[:_DIGITS]}" if python else ""
    return f"{bundle}{whose}.python"
