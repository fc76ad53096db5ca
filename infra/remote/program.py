"""A program that runs to its end while somebody waits for it, and not a moment longer."""

from __future__ import annotations

import os
import secrets
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from infra.remote.processes import POLL_S, Leader, Refused, begin, boot_id, end, last_words, stat_of

# An answer stays small.
OUTPUT_BYTES = 1 << 20


class Deserted(Exception):
    """Nobody is left who would read an answer."""


def run(argv: Sequence[str], env: Mapping[str, str], umask: int, timeout_s: float) -> dict[str, Any]:
    """Its exit status and the last of its outputs. What it started ends with it when it is cut short.

    Raises OSError, Refused when it takes longer than `timeout_s`, Deserted when our own input ends before.
    """
    mark = secrets.token_hex(8)
    process = begin(argv, env, mark, umask, subprocess.PIPE, subprocess.PIPE)
    seen = stat_of(process.pid)
    assert seen is not None  # not waited for yet
    leader = Leader(process.pid, seen.start_time, boot_id(), mark)
    said = {"stdout": b"", "stderr": b""}
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ, "")
        for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            ready.register(pipe, selectors.EVENT_READ, name)
        while True:
            has_ended = process.poll() is not None  # before the last look at what it said
            heard = False
            for key, _ in ready.select(0 if has_ended else POLL_S):
                if not key.data:
                    # nothing is asked while we work on an answer: it is the end
                    end(leader, 0.0)
                    raise Deserted
                chunk = os.read(key.fd, OUTPUT_BYTES)
                said[key.data] = (said[key.data] + chunk)[-OUTPUT_BYTES:]
                if not chunk:
                    ready.unregister(key.fileobj)
                heard = True
            if has_ended and not heard:
                break
            if time.monotonic() > deadline:
                end(leader, 0.0)
                errors = last_words(said["stderr"].decode(errors="replace"))
                raise Refused(f"{argv[0]} did not end within {timeout_s:g} s: {errors}")
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    return {"returncode": process.returncode, **{name: text.decode(errors="replace") for name, text in said.items()}}
