"""The codes that a host can run: its own, and bundles that were put there. A bundle is there when its interpreter is
named beside it, which happens last; the command that starts a code's runner, and where its compiled programs lie,
follow from that.

A revision's programs are compiled anew even where another's would do: a cache of one code is never warmed by another,
so that what `compile_ns` says of a revision is its own. This knows no job, and starts nothing.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.code import code_hash
from core.mark import mark_of
from core.visit import BundleRef, Visit

_MODULE = ("-P", "-m", "workers.runner")
RUNNER = (sys.executable, *_MODULE)

# A day of edits makes dozens of codes, and their programs take tens of MiB each: those of the codes used last are kept,
# a working tree and some revisions to compare it with.
KEPT_CACHES = 8

# Enough of a code hash for a folder's name.
_CODE_CHARACTERS = 16


class CodeMissing(Exception):
    """A visit wants code that is not here: says which."""


class Installed(NamedTuple):
    """`code`: the code hash. `command` starts its runner. `bundle`: where it lies; None for the host's own."""

    code: str
    command: tuple[str, ...]
    cache: Path
    bundle: Path | None = None

    @property
    def missing(self) -> str:
        """What is gone of it since it was found, or "": what no process names yet may be removed as unused."""
        needed = () if self.bundle is None else (self.bundle, Path(self.command[0]))
        gone = [str(path) for path in needed if not path.exists()]
        return f"the code of this visit is not here any more: there is no {gone[0]}" if gone else ""


@dataclass(frozen=True)
class Codes:
    """The codes of a host. `bundles`: the folder they are in, or None; `command`, `own`: of the host's own code;
    `python`: of the pool file (`core.mark`)."""

    caches: Path
    bundles: Path | None = None
    command: tuple[str, ...] = RUNNER
    own: Callable[[], str] = code_hash
    python: str = ""

    def of(self, visit: Visit) -> Mapping[str, Installed]:
        """By a job's `code`: what the slots of a visit run. Reads the disk. Raises CodeMissing."""
        wanted = dict.fromkeys(slot.job.code for slot in visit.slots)
        found = {code: self._find(visit, code) for code in wanted}
        self._prune({installed.cache for installed in found.values()})
        return found

    def _find(self, visit: Visit, code: str) -> Installed:
        if bundle := visit.bundles.get(code):
            return self._bundle(bundle, f"commit {code[:12]}" if code else "the working tree")
        if code:
            raise CodeMissing(f"the visit names no bundle for commit {code[:12]}")
        own = self.own()
        if visit.code and visit.code != own:
            raise CodeMissing(f"the visit wants code {visit.code[:12]}, this host has {own[:12]}")
        return Installed(own, self.command, self._cache(own))

    def _bundle(self, ref: BundleRef, name: str) -> Installed:
        if self.bundles is None:
            raise CodeMissing(f"{name} is not here: no bundle is ever put on this host")
        folder, mark = self.bundles / ref.id, self.bundles / mark_of(ref.id, self.python)
        try:
            python = mark.read_text().strip()
            # what is used last goes last (`infra.remote.unused`)
            os.utime(mark)
        except FileNotFoundError:
            raise CodeMissing(f"{name} is not here: there is no {folder}") from None
        return Installed(ref.code, (python, *_MODULE), self._cache(ref.code), folder)

    def _cache(self, code: str) -> Path:
        return self.caches / code[:_CODE_CHARACTERS]

    def _prune(self, used: set[Path]) -> None:
        """Removes the programs of the codes that were not used for longest."""
        with suppress(OSError):  # a full disk, or a folder not made yet: nothing here is worth a visit
            for cache in used:
                if cache.exists():
                    os.utime(cache)
            caches = [path for path in self.caches.iterdir() if path.is_dir() and path not in used]
            caches.sort(key=lambda cache: cache.stat().st_mtime, reverse=True)
            for cache in caches[max(KEPT_CACHES - len(used), 0) :]:
                shutil.rmtree(cache, ignore_errors=True)
