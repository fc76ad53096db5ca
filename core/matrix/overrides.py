"""What a command line changes in a matrix before it is checked: `--set`, `-a` and `-x`.

Every change is remembered in `Places`, so that an error about it quotes what was typed, not a line of the file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core.matrix.error import MatrixError, nearest
from core.matrix.places import Path, Places
from core.matrix.values import finite, typed_value, typed_values
from core.matrix.vocabulary import Vocabulary

# The sections that `--set` reaches; the others have options of their own.
_SETTABLE = ("experiment", "job", "baseline", "measure")
_OPTION = {"axes": "use -a KEY=VALUES", "include": "use -a KEY=VALUES", "exclude": "use -x KEY=VALUE"}


def apply_sets(tables: dict[str, dict[str, Any]], sets: Sequence[str], places: Places) -> None:
    """Puts what `--set` says into the tables. Raises MatrixError."""
    for words in sets:
        path, equals, text = words.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            raise MatrixError(f"--set {words}: not SECTION.KEY=VALUE; write it as in --set measure.iters=5")
        if section not in _SETTABLE:
            hint = _OPTION.get(section) or nearest(section, _SETTABLE)
            raise MatrixError(f"--set {words}: there is nothing to set in {section}; {hint}")
        places.typed((section, key), f"--set {words}")
        tables[section][key] = text if _is_text(key) else typed_value(text)
        finite(tables[section][key], (section, key), places)


def apply_axes(
    tables: dict[str, dict[str, Any]], axes: Mapping[str, str], vocabulary: Vocabulary, places: Places
) -> None:
    """Puts what `-a` says into the tables: another axis in an axis' place, or a new one, in [job]'s place where it
    fixed the field. Raises MatrixError."""
    for key, text in axes.items():
        path: Path = ("axes", key)
        places.typed(path, f"-a {key}={text}")
        vocabulary.check(key, path, places)
        tables["job"].pop(key, None)
        tables["axes"][key] = typed_values(text, texts=_holds_texts(key, vocabulary))
        finite(tables["axes"][key], path, places)


def typed_pattern(words: str, path: Path, vocabulary: Vocabulary, places: Places) -> dict[str, Any]:
    """What `-x KEY=VALUE[,VALUE…][,KEY=VALUE…]` matches: key -> values, one of which must hold at every key.

    A piece between commas begins the next key when a known key stands before its `=`. Raises MatrixError."""
    places.typed(path, f"-x {words}")
    texts: dict[str, list[str]] = {}
    for piece in words.split(","):
        key, equals, value = piece.partition("=")
        if equals and (not texts or vocabulary.has(key)):
            vocabulary.check(key, path, places)
            texts.setdefault(key, []).append(value)
        elif texts:
            texts[next(reversed(texts))].append(piece)
        else:
            raise MatrixError(f"-x {words}: not KEY=VALUE; write it as in -x topk=2")
    return {key: typed_values(",".join(values), texts=_holds_texts(key, vocabulary)) for key, values in texts.items()}


def _holds_texts(key: str, vocabulary: Vocabulary) -> bool:
    return key in vocabulary.bundles or _is_text(key)


def _is_text(key: str) -> bool:
    """Whether any value of the field is a text, also one that reads like a number, as the beginning of a commit can."""
    return key == "code" or key.startswith("env.")
