"""Which bundles, environments and tools on a host nobody needs any more.

A bundle is bundles/ID with its marks, which name interpreters: bundles/ID.python that of its environment, envs/…, and
bundles/ID.….python one of the host's own. Others may prune at the same time: what they have removed is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from infra.remote.files import remove, temporary
from infra.remote.processes import everyone, told

MARK = ".python"


def prune(root: Path, keep: Iterable[str], newest: int, young_s: float) -> list[str]:
    """Removes what is unused; returns the paths.

    A bundle stays that is in `keep`, whose mark is among the `newest`, or that a living process names; an environment
    that is in `keep`, that a mark of a staying bundle names, or a living process; of the tools, which make
    environments, the newest. What is younger than `young_s` stays: somebody may be at work on it, and a mark is as old
    as the last use of its bundle.
    """
    bundles, envs = _listed(root / "bundles"), _listed(root / "envs")
    used = b"\0".join(told(pid, what) for pid in everyone() for what in ("cmdline", "environ", "maps"))
    named = set(keep)

    def stays(path: Path) -> bool:
        is_young = time.time() - _changed_at(path) < young_s
        return is_young or path.name in named or os.fsencode(path) in used

    marks = [path for path in bundles if path.name.endswith(MARK)]
    marks.sort(key=_changed_at, reverse=True)
    newest_bundles = list(dict.fromkeys(map(_bundle, marks)))[:newest]
    kept = {path for path in bundles if path not in marks and stays(path)}
    kept |= {*newest_bundles, *map(_bundle, filter(stays, marks))}
    pythons = [_text(mark) for mark in marks if _bundle(mark) in kept]
    kept_envs = {env for env in envs if stays(env) or any(python.startswith(f"{env}/") for python in pythons)}
    # a mark before its bundle: without it the bundle is not there
    unused = [mark for mark in marks if _bundle(mark) not in kept]
    unused += [path for path in bundles if path not in marks and path not in kept]
    unused += [env for env in envs if env not in kept_envs]
    tools = sorted(_listed(root / "bin"), key=_changed_at)
    unused += [tool for tool in tools[:-1] if not stays(tool)]
    removed = []
    for path in unused:
        # out of the way at once: nobody finds half of it
        scratch = temporary(path)
        with suppress(FileNotFoundError):
            path.rename(scratch)
            removed.append(str(path))
        remove(scratch)
    return removed


def _bundle(mark: Path) -> Path:
    return mark.with_name(mark.name.partition(".")[0])


def _changed_at(path: Path) -> float:
    """Long ago when it is gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _text(mark: Path) -> str:
    try:
        return mark.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
