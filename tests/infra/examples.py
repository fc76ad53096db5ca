"""The pool files of `pools/`: as they are, and with every key in use that they only show."""

import re
import tomllib
from pathlib import Path
from typing import Any

POOLS = Path(__file__).parents[2] / "pools"
EXAMPLES = sorted(path.name for path in POOLS.glob("*.toml"))

# A key that is shown and not in use; prose has a space after its `#`.
SHOWN = re.compile(r"^#(?=\w+ = )", re.MULTILINE)


def text_of(example: str) -> str:
    return (POOLS / example).read_text("utf-8")


def whole(example: str) -> dict[str, Any]:
    """The document with all that it shows in use."""
    return tomllib.loads(SHOWN.sub("", text_of(example)))
