"""The one renderer of all readers: rows in, a table for people or json, jsonl, csv, md out.

A row is a dict; its keys carry their units (`time_ms`, `effect_pct`), which tables show beside the number instead.
json, jsonl and csv keep every digit; table and md are for reading. A report has sections; csv holds one kind of row, so
it has the first section only and says so.
"""

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, TextIO

from core.errors import HillclimbError
from core.printable import printable

Row = Mapping[str, Any]
Rows = Sequence[Row]
Report = Mapping[str, Rows]

# Wide enough that nothing is folded when a program reads a table.
_PIPED_WIDTH = 100_000

# The unit a key ends in -> how a person writes it.
_UNITS = {"ms": "ms", "s": "s", "pct": "%", "bytes": "B"}

_HASH = re.compile(r"[0-9a-f]{64}")

# These numbers are names: a person types them back.
_NAMES = frozenset({"pid", "visit", "request"})

# On a narrow terminal, a column of nothing longer stays on one line and leaves the folding to the others.
_WHOLE = 20

# Whole sentences: they stand below their table, a line each.
_PROSE = frozenset({"sentence", "conclusion"})


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MD = "md"


def parse_output(name: str) -> Output:
    """Raises HillclimbError."""
    try:
        return Output(name)
    except ValueError as e:
        raise HillclimbError(f"-o {name}: choose one of {', '.join(Output)}") from e


def print_rows(rows: Rows, output: Output, out: TextIO | None = None) -> None:
    """Rows of one kind to `out` (stdout)."""
    print_report({"": rows}, output, out)


def print_report(report: Report, output: Output, out: TextIO | None = None) -> None:
    """Named sections to `out` (stdout). A section's columns are its rows' keys in the order they first appear."""
    out = out or sys.stdout
    match output:
        case Output.TABLE:
            _table(report, out)
        case Output.JSON:
            document = {name: list(rows) for name, rows in report.items()}
            print(_json(document[""] if list(document) == [""] else document, indent=2), file=out)
        case Output.JSONL:
            for name, rows in report.items():
                for row in rows:
                    print(_json({"section": name, **row} if name else row), file=out)
        case Output.CSV:
            _csv(report, out)
        case Output.MD:
            _markdown(report, out)


def columns(rows: Rows) -> list[str]:
    """The keys of all rows, in the order they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def human(key: str, value: Any, short: bool = False) -> str:
    """A value as a person writes it: four digits that count, with the unit its key ends in. `short`: of a hash, enough
    of it to type."""
    unit = _name_and_unit(key)[1]
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key in _NAMES:
        return str(value)
    if isinstance(value, int | float):
        text = f"{value:,}" if isinstance(value, int) else _digits(value)
        return f"{text} {unit}" if unit else text
    if isinstance(value, str):
        return value[:12] if short and _HASH.fullmatch(value) else printable(value)
    return printable(json.dumps(value))


def _digits(value: float) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _name_and_unit(key: str) -> tuple[str, str | None]:
    """What a key is about and its unit; a rate (`tokens_per_s`) says its own."""
    name, _, suffix = key.rpartition("_")
    unit = _UNITS.get(suffix) if name and not name.endswith("_per") else None
    return (name, unit) if unit else (key, None)


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def _table(report: Report, out: TextIO) -> None:
    parts = []
    for name, rows in report.items():
        if rows:
            keys, prose = _split(rows)
            lines = _grid(rows, keys, out) if keys else []
            parts.append("\n".join([*([name] if name and keys else []), *lines, *prose]))
    if parts:
        print("\n\n".join(parts), file=out)


def _split(rows: Rows) -> tuple[list[str], list[str]]:
    """The columns of a table, without those that are empty in every row, and the sentences that stand below it."""
    keys = [key for key in columns(rows) if any(row.get(key) not in (None, "") for row in rows)]
    prose = [printable(str(row[key])) for key in keys if key in _PROSE for row in rows]
    return [key for key in keys if key not in _PROSE], prose


def _grid(rows: Rows, keys: Sequence[str], out: TextIO) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = out.isatty()
    texts = {key: [human(key, row.get(key), short=terminal) for row in rows] for key in keys}
    widths = {key: max(len(_name_and_unit(key)[0]), *map(len, texts[key])) for key in keys}
    console = Console(file=out, highlight=False)
    # a table that cannot fit is wider than the terminal rather than cut: a number without its last digits is another
    needed = sum(min(width, _WHOLE) + 2 for width in widths.values())
    console.width = max(console.width, needed) if terminal else _PIPED_WIDTH
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for key in keys:
        numeric = all(isinstance(row.get(key), int | float | None) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(Text(_name_and_unit(key)[0]), justify=justify, overflow="fold", no_wrap=widths[key] <= _WHOLE)
    for index in range(len(rows)):
        table.add_row(*(Text(texts[key][index]) for key in keys))
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def _csv(report: Report, out: TextIO) -> None:
    first, *others = report.items()
    rows = first[1]
    writer = csv.writer(out, lineterminator="\n")
    keys = columns(rows)
    if keys:
        writer.writerow(keys)
    writer.writerows([_plain(row.get(key)) for key in keys] for row in rows)
    left_out = [name for name, section in others if section]
    if left_out:
        print(f"csv has one kind of row: {', '.join(left_out)} left out, -o json has all", file=sys.stderr)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | dict | list | tuple) else value


def _markdown(report: Report, out: TextIO) -> None:
    for name, rows in report.items():
        if not rows:
            continue
        keys, prose = _split(rows)
        lines = [f"**{name}**", ""] if name and keys else []
        if keys:
            lines += [f"| {' | '.join(_cell(_name_and_unit(key)[0]) for key in keys)} |", f"|{' --- |' * len(keys)}"]
            lines += [f"| {' | '.join(_cell(human(key, row.get(key))) for key in keys)} |" for row in rows]
        lines += ["", *(f"- {sentence}" for sentence in prose)] if prose else []
        print("\n".join([*lines, ""]), file=out)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>")
