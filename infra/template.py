"""Commands of a pool file with a host's fields in them: `["gcloud", …, "delete", "{machine}"]`.

A command is a list of arguments and stays one: what is filled in never becomes two arguments, and no shell reads it.
Only plain `{name}` is filled in; `{{` and `}}` stand for the braces. A template is checked when its file is read, so
that rendering cannot fail when a host is already broken.
"""

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter

PLACEHOLDERS = ("name", "address", "user", "port", "machine")


def checked(template: tuple[str, ...]) -> tuple[str, ...]:
    """The template itself. Raises ValueError, which names the way out, when it cannot be rendered."""
    if template and not template[0]:
        raise ValueError("its first argument is empty: write the program to run")
    for argument in template:
        if "\0" in argument:
            raise ValueError(f"{argument!r} has a NUL character, which no program can be given: leave it out")
        try:
            parts = list(Formatter().parse(argument))
        except ValueError:
            raise ValueError(
                f"{argument!r}: a brace stands alone: write {{{{ or }}}} for one that is of no placeholder"
            ) from None
        for _, name, spec, conversion in parts:
            if name is not None and (name not in PLACEHOLDERS or spec or conversion):
                known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                raise ValueError(f"{argument!r}: there are {known}: write one of them, and {{{{ and }}}} for braces")
    return template


def placeholders(template: Sequence[str]) -> set[str]:
    """The names that `template` needs."""
    return {name for argument in template for _, name in _parts(argument) if name is not None}


def rendered(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """One argument for each of the template's, `values` filled in. Raises KeyError for a name without a value."""
    return [
        "".join(text + ("" if name is None else values[name]) for text, name in _parts(argument))
        for argument in template
    ]


def _parts(argument: str) -> Iterator[tuple[str, str | None]]:
    """Text, with its braces single, and the name of the placeholder after it."""
    return ((text, name) for text, name, _, _ in Formatter().parse(argument))
