"""One line for a person out of what pydantic found wrong with a visit."""

from pydantic import ValidationError

from core.job import KINDS

# What a value that is too long to read is cut to.
VALUE_CHARS = 80


def complaint(error: ValidationError) -> str:
    """The first thing wrong: its key, its value, what to write instead, and how many more there are."""
    found = error.errors(include_url=False)
    first = found[0]
    key = ".".join(str(part) for part in first["loc"] if part not in KINDS)
    value = repr(first["input"])
    shown = value if len(value) <= VALUE_CHARS else value[:VALUE_CHARS] + "…"
    match first["type"]:
        case "json_invalid":
            return f"{first['msg']}; write the visit as one JSON object"
        case "missing":
            said = f"{key} is missing; add it"
        case "extra_forbidden":
            said = f"{key} = {shown} is not a key a visit has; remove it"
        case _:
            said = f"{key} = {shown}: {first['msg']}"
    return said if len(found) == 1 else f"{said} (and {len(found) - 1} more)"
