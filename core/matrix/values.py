"""Values of a matrix: as TOML gives them, as a range makes them, as they are typed on a command line.

A fraction stays a Decimal until it is a value of its own, so that 0.1 steps meet 0.9; then it is the nearest float.
"""

import tomllib
from decimal import Decimal
from typing import Any

from core.matrix.error import MatrixError, nearest, shown
from core.matrix.places import Path, Places

Scalar = bool | int | float | str
# A list is a tuple here, so that every value can be a key.
Value = Scalar | tuple[Scalar, ...]

# A benchmark of more cells would not end within a year; a typing error in a range easily makes more.
MAX_CELLS = 100_000

_RANGE = ("from", "to", "step")


def finite(value: Any, path: Path, places: Places) -> None:
    """Raises MatrixError when a number in `value`, however deep, is not one a float can be."""
    match value:
        case dict():
            for key, inner in value.items():
                finite(inner, (*path, key), places)
        case list():
            for index, inner in enumerate(value):
                finite(inner, (*path, index) if isinstance(inner, dict) else path, places)
        case Decimal() if not value.is_finite():
            raise places.error(path, f"{value} is not a number to measure with", "write a finite number")
        case Decimal() if value and abs(value.adjusted()) > 300:
            raise places.error(path, f"{value} is out of a float's range", "write a number between 1e-300 and 1e300")


def single(value: Any, path: Path, places: Places, *, lists: bool = False) -> Value:
    """One value of a field. Raises MatrixError for tables, dates, and for lists unless the field holds `lists`."""
    if not lists:
        return _scalar(value, path, places)
    if not isinstance(value, list):
        fix = "write a value of this field in brackets, as in [512, 1024, 1024]"
        raise places.error(path, f"{shown(value)} is not a list", fix)
    return tuple(_scalar(inner, path, places) for inner in value)


def _scalar(value: Any, path: Path, places: Places) -> Scalar:
    match value:
        case Decimal():
            return float(value) + 0.0  # -0.0 is 0.0
        case bool() | int() | float() | str():
            return value
        case list():
            raise places.error(
                path, f"{shown(value)} is a list where one value is wanted", "to vary it, make it a key of [axes]"
            )
        case _:
            raise places.error(path, f"{shown(value)} is no value a field can have", "write a number, text or boolean")


def several(value: Any, path: Path, places: Places, *, lists: bool = False) -> tuple[Value, ...]:
    """The values of an axis: a list, or an inclusive range {from, to, step}; a list of `lists`. Raises MatrixError."""
    values: tuple[Value, ...]
    match value:
        case list():
            values = tuple(single(inner, path, places, lists=lists) for inner in value)
        case dict() if not lists:
            values = _range(value, path, places)
        case _:
            raise places.error(path, f"{shown(value)} is not a list", "write the values in brackets, as in [2, 4]")
    if not values:
        raise places.error(path, "the list is empty, so that nothing would be measured", "give it a value")
    seen: set[tuple[bool, Value]] = set()
    for each in values:
        if (isinstance(each, bool), each) in seen:
            raise places.error(path, f"{shown(each)} is there twice", "remove one of them")
        seen.add((isinstance(each, bool), each))
    return values


def same(one: Value | None, other: Value | None) -> bool:
    """Equality in TOML's sense: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _range(table: dict[str, Any], path: Path, places: Places) -> tuple[Value, ...]:
    for key in table:
        if key not in _RANGE:
            raise places.error((*path, key), "unknown key of a range", nearest(key, _RANGE))
    for key in _RANGE:
        if key not in table:
            raise places.error(path, f"the range has no {key}", "write { from = 0.0, to = 0.9, step = 0.1 }")
        if isinstance(table[key], bool) or not isinstance(table[key], int | Decimal):
            raise places.error((*path, key), f"{shown(table[key])} is not a number", "write a number without quotes")
    whole = all(isinstance(table[key], int) for key in _RANGE)
    first, last, step = (Decimal(table[key]) for key in _RANGE)
    if step <= 0 or last < first:
        raise places.error(path, "the range does not go upwards", "write from <= to and a step above 0")
    if (last - first) / step > MAX_CELLS:
        raise places.error(path, f"the range has more than {MAX_CELLS} values", "write a larger step")
    steps, rest = divmod(last - first, step)
    if rest:
        below = first + steps * step
        raise places.error(
            path, f"steps of {step} from {first} do not meet to = {last}", f"write to = {below} or to = {below + step}"
        )
    points = (first + index * step for index in range(int(steps) + 1))
    return tuple(int(point) if whole else float(point) + 0.0 for point in points)


def typed_value(text: str) -> Any:
    """A value typed on a command line: TOML's notation where it is that, else the text as it is."""
    try:
        return tomllib.loads(f"value = {text}", parse_float=Decimal)["value"] if "\n" not in text else text
    except (ValueError, ArithmeticError, RecursionError):
        return text


def typed_values(text: str, *, texts: bool) -> Any:
    """Values typed for an axis: a TOML list or range, else parted by commas. `texts`: they are texts, not numbers."""
    if text.startswith(("[", "{")):
        whole = typed_value(text)
        if not isinstance(whole, str):
            return whole
        raise MatrixError(f'{text}: not a list or range in TOML\'s notation; write ["a", "b"] or a,b')
    pieces = text.split(",")
    return pieces if texts else [typed_value(piece) for piece in pieces]
