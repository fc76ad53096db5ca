"""Running a pool's own command: what a researcher wrote to have a host replaced or given back.

There is no shell, nothing to type into, and a deadline. The command is a session of its own: a key pressed for us is
not pressed for it, and what it started ends with it at the deadline. Who is no longer there to wait for its end lets it
go on: a host that is half replaced is worse than one that nobody waits for.
"""

import asyncio
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

# How often the command is looked at: it lasts seconds to minutes.
LOOK_S = 0.1

# Its last words: enough for the sentence that says what went wrong, which tools print last.
WORDS_BYTES = 2000


async def run_command(argv: Sequence[str], within_s: float) -> str:
    """Run it to its end. Returns "" when it ended well, else what went wrong, its last words included."""
    shown = shlex.join(argv)
    # a file and not a pipe: what it leaves running in the background may keep a pipe open for ever
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return f"`{shown}` cannot be run ({error.strerror}): correct it in the pool file"
        deadline = time.monotonic() + within_s
        while process.poll() is None:
            if time.monotonic() >= deadline:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"`{shown}` had not ended after {within_s:g} s and was stopped{_last_words(output.fileno())}"
            await asyncio.sleep(LOOK_S)
        if process.returncode == 0:
            return ""
        how = f"exit {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        return f"`{shown}` failed ({how}){_last_words(output.fileno())}"


def _last_words(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    words = os.pread(descriptor, WORDS_BYTES, max(0, size - WORDS_BYTES)).decode(errors="replace")
    sentence = " / ".join(line.strip() for line in words.splitlines() if line.strip())
    return f": {sentence}" if sentence else ""
