"""An environment: the packages that a bundle's code needs around it on a host, named by what it is made from.

hillclimb itself is not among them: its bundle is on the path. The list is the project's whole own one, also what only
a controller needs: that is a twentieth of its 1.5 GiB, and a second list would be one more thing to keep right. It
knows no host; `infra.make_venv` makes one, `infra.sync` asks for it.
"""

import hashlib
import json
import sys
import tomllib
from typing import NamedTuple

from core.errors import HillclimbError
from infra.bundle import Bundle, unpack

# Ray refuses to join two minor versions of Python in one cluster, so all hosts of a pool get the controller's.
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


class Environment(NamedTuple):
    """`id`: 64 hexadecimal digits, the lock id. `python`: a minor version. `constraints`: the text of a pip file."""

    id: str
    python: str
    requirements: tuple[str, ...]
    constraints: str


def environment_of(bundle: Bundle, arch: str, python: str = MINOR) -> Environment:
    """What a bundle needs on a host of this architecture, as its own project file says. Raises HillclimbError."""
    files = unpack(bundle.archive)
    try:
        project = tomllib.loads(files["pyproject.toml"].content.decode())["project"]
        requirements = tuple(sorted(project["dependencies"]))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        tree = f"commit {bundle.revision[:12]}" if bundle.revision and not bundle.diff else "the working tree"
        raise HillclimbError(f"pyproject.toml of {tree} names no dependencies ({e!r}): correct it") from e
    constraints = files["constraints.txt"].content.decode() if "constraints.txt" in files else ""
    made_from = json.dumps([requirements, constraints, python, arch])
    return Environment(hashlib.sha256(made_from.encode()).hexdigest(), python, requirements, constraints)
