"""The base of every value that crosses a boundary: frozen, strict, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value read from a file or the wire: no coercion, no unknown keys, no later edits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
