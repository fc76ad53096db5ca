"""Where a key stands in the text of a TOML file: tomllib does not say.

The text has been accepted by tomllib before, so this only has to find the keys again, not to judge them. A key inside
an inline table is found at the line of the table's own key.
"""

import re
from collections import Counter

from core.matrix.error import MatrixError
from core.matrix.tables import split

# Keys from the document's root; an array of tables is followed by the index of the table, from 0.
Path = tuple[str | int, ...]

_KEY = r"""(?:"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
_KEYS = re.compile(rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*")
_STATEMENT = re.compile(rf"[ \t]*(?P<table>\[\[?)?[ \t]*(?P<keys>{_KEYS.pattern})")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""'  # strings come first: a bracket or a # inside them is only text
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|(?P<open>[\[{])|(?P<close>[\]}])|(?P<newline>\n)"
    r"|[^\[\]{}\n#\"']+"
    r"|.",
    re.DOTALL,
)


def lines_of(text: str) -> dict[Path, int]:
    """The line, from 1, on which each table and key is first named."""
    lines: dict[Path, int] = {}
    tables: Counter[Path] = Counter()
    prefix: Path = ()
    at, line = 0, 1
    while at < len(text):
        if statement := _STATEMENT.match(text, at):
            keys = _split(statement["keys"])
            match statement["table"]:
                case "[[":
                    array = _through_arrays(keys[:-1], tables) + keys[-1:]
                    prefix = (*array, tables[array])
                    tables[array] += 1
                    path = prefix
                case "[":
                    path = prefix = _through_arrays(keys, tables)
                case _:
                    path = prefix + keys
            for length in range(1, len(path) + 1):
                lines.setdefault(path[:length], line)
        after = _end_of_statement(text, at)
        at, line = after, line + text.count("\n", at, after)
    return lines


def _split(keys: str) -> Path:
    return _normal(tuple(key.strip("\"'") for key in re.findall(_KEY, keys)))


def _through_arrays(keys: Path, tables: Counter[Path]) -> Path:
    path: Path = ()
    for key in keys:
        path += (key,)
        if path in tables:
            path += (tables[path] - 1,)
    return path


def _end_of_statement(text: str, at: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += bool(token["open"]) - bool(token["close"])
        if token["newline"] and depth <= 0:
            return token.end()
    return len(text)


def _normal(path: Path) -> Path:
    """An entry of a table, as `env.NAME`, is one key to us and two to TOML: always two here."""
    return tuple(part for key in path for part in (split(key) if isinstance(key, str) else (key,)))


def dotted(path: Path) -> str:
    """A path as it is shown: `include.2.topk` is the key topk of the second [[include]]."""
    return ".".join(str(key + 1) if isinstance(key, int) else key for key in path)


class Places:
    """The places of one matrix: a file's lines, and the words of the command line that replaced some of them."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = lines_of(text)
        self._typed: dict[Path, str] = {}

    def typed(self, path: Path, words: str) -> None:
        """From now on, what stands at `path` was typed as `words`."""
        self._typed[_normal(path)] = words

    def of(self, path: Path) -> str:
        """`FILE:LINE` of the key, or of the innermost table around it that can be found."""
        path = _normal(path)
        for length in range(len(path), 0, -1):
            if line := self._lines.get(path[:length]):
                return f"{self._name}:{line}"
        return self._name

    def error(self, path: Path, problem: str, fix: str) -> MatrixError:
        """The error about what stands at `path`; typed words name their key themselves."""
        whole = _normal(path)
        for length in range(len(whole), 0, -1):
            if words := self._typed.get(whole[:length]):
                return MatrixError(f"{words}: {problem}; {fix}")
        key = f"{dotted(path)}: " if path else ""
        return MatrixError(f"{self.of(path)}: {key}{problem}; {fix}")
