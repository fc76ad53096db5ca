"""A pool: the hosts a matrix is run on, by name, and how they are reached.

`local` is emulated on this machine and lives and dies with its controller; `ray` attaches to a running cluster whose
nodes carry the label HOST_LABEL. A pool file is TOML; unknown keys are refused.
"""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from core.errors import HillclimbError
from core.model import Frozen
from core.visit import Deadlines, Platform, Target

# Our own label: a raylet that comes back has a new node id but the same label.
HOST_LABEL = "hillclimb-host"


class HostSpec(Frozen):
    """One host. `selector` pins an actor to it; hosts of one `machine` are never timed at the same time."""

    name: str
    machine: str
    target: Target
    selector: dict[str, str]


class Policy(Frozen):
    """What every pool decides about its hosts."""

    exclusive: bool = Field(True, description="one visit at a time on a machine: tests may say false")
    deadlines: Deadlines = Field(Deadlines(), description="seconds a phase of an arm may last: a table")
    # A killed controller, a closed laptop or a cut link of a quarter of an hour costs no run; an accelerator that
    # nobody asks about for longer is given back.
    orphan_s: Annotated[float, Field(gt=0, description="a host works on for so long without any call")] = 900.0
    kill_foreign: bool = Field(False, description="may the ladder end processes that are not hillclimb's own")
    no_host_s: Annotated[float, Field(ge=0, description="give up after so long without any usable host")] = 600.0


class LocalPool(Policy):
    """Emulated hosts on this machine. One by default: two would measure each other."""

    kind: Literal["local"] = "local"
    hosts: Annotated[int, Field(ge=1, le=64)] = 1
    devices: Annotated[int, Field(ge=1, le=64, description="emulated devices of a host")] = 4


class RayPool(Policy):
    """A running Ray cluster. Its hosts are the nodes that carry our label."""

    kind: Literal["ray"]
    address: str = Field(description="HOST:PORT of the cluster's head")
    token: str = Field("", description="file with the cluster's token; otherwise RAY_AUTH_TOKEN_PATH")
    platform: Platform = Field(Platform.CPU, strict=False)
    devices: Annotated[int, Field(ge=1)] = 4
    device_kind: str = Field("", description="as JAX calls it, `TPU v5` for a v5p; asserted when it is given")


Pool = LocalPool | RayPool
_POOL: TypeAdapter[LocalPool | RayPool] = TypeAdapter(Annotated[LocalPool | RayPool, Field(discriminator="kind")])


class PoolError(HillclimbError):
    """A pool that cannot be read or reached: says which, and what to do."""


def read_pool(name: str) -> Pool:
    """The pool called `local`, or the one a TOML file describes. Raises PoolError."""
    if name == "local":
        return LocalPool()
    path = Path(name)
    try:
        fields = tomllib.loads(path.read_text())
    except OSError as e:
        raise PoolError(f"pool {name!r} is neither `local` nor a pool file ({e.strerror}): name one of them") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise PoolError(f"{name}: not TOML: {e}") from e
    try:
        return _POOL.validate_python(fields)
    except ValidationError as e:
        raise PoolError(f"{name}: {_complaint(e, fields)}") from e


def _complaint(error: ValidationError, fields: dict[str, object]) -> str:
    """The first thing wrong: key, value, and what to write instead."""
    # a misspelt key is also a missing one: the misspelling says more
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"][1:])
    match first["type"]:
        case "union_tag_invalid" | "union_tag_not_found":
            return f"kind = {fields.get('kind')!r}: write local or ray"
        case "extra_forbidden":
            model = RayPool if fields["kind"] == "ray" else LocalPool
            near = get_close_matches(key, model.model_fields, 1, 0)
            return f"unknown key {key}; did you mean {near[0]}? There are {', '.join(model.model_fields)}"
        case "missing":
            return f"{key} is missing; a pool of kind {fields['kind']} needs it"
        case _:
            return f"{key} = {first['input']!r}: {first['msg'].removeprefix('Input ')}"
