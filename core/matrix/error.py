"""The one error of a matrix, and the hints it is made of."""

import difflib
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from pydantic_core import ErrorDetails

from core.errors import HillclimbError

# A value is quoted in an error so that it can be found again, not so that it can be read in full.
SHOWN_CHARACTERS = 60


class MatrixError(HillclimbError):
    """A matrix cannot be used. The text is complete: place, key, value, what is wrong, how to put it right."""


def shown(value: Any) -> str:
    """A value as TOML would write it, cut when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _plain(value: Any) -> float | str:
    return float(value) if isinstance(value, Decimal) else str(value)


def nearest(wrong: Any, known: Iterable[Any]) -> str:
    """The step after a wrong name: the known name nearest to it, or all of them."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(wrong), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known here: {', '.join(names) or 'nothing'}"


def _choice(given: Any, expected: list[str], choices: list[str]) -> str:
    """The step after a value that is none of the `choices`; `expected` has the texts among them in quotes."""
    if isinstance(given, str):
        return "write it without quotes" if given in expected else nearest(given, choices)
    return "write it in quotes" if all(choice.startswith("'") for choice in expected) else nearest(given, choices)


def explained(error: ErrorDetails, key: str) -> tuple[str, str]:
    """What pydantic found wrong with the value of `key`, and what to do about it, in a researcher's words."""
    context = error.get("ctx", {})
    value = shown(error["input"])
    # an element of a list has no key of its own
    lead = "" if isinstance(error["loc"][-1], int) else f"{key} = "
    match error["type"]:
        case "int_type" | "int_from_float":
            return f"{value} is not a whole number", f"write it without quotes or point, as in {lead}8"
        case "float_type":
            return f"{value} is not a number", f"write it without quotes, as in {lead}0.5"
        case "string_type":
            return f"{value} is not a text", f"write it in quotes, as in {key} = {shown(str(error['input']))}"
        case "bool_type":
            return f"{value} is neither true nor false", f"write {key} = true or {key} = false"
        case "tuple_type":
            return f"{value} is not a list", f"write it in brackets, as in {key} = [{value}]"
        case "too_short" | "too_long":
            wanted = context.get("min_length", context.get("max_length"))
            return f"{value} is a list of {context['actual_length']}", f"write a list of {wanted}"
        case "literal_error":
            expected = [choice.strip() for choice in context["expected"].replace(" or ", ",").split(",")]
            choices = [choice.strip("'") for choice in expected]
            return f"{value} is none of {', '.join(choices)}", _choice(error["input"], expected, choices)
        case "greater_than_equal":
            return f"{value} is too small", f"write at least {context['ge']}"
        case "less_than_equal":
            return f"{value} is too large", f"write at most {context['le']}"
        case "greater_than":
            return f"{value} is too small", f"write more than {context['gt']}"
        case "less_than":
            return f"{value} is too large", f"write less than {context['lt']}"
        case "value_error":
            return str(context["error"]), f"change {key}"
        case _:
            return f"{value}: {error['msg']}", f"change {key}"
