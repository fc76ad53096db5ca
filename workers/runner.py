"""`python -m workers.runner VISIT.json --events FD`: a visit in, events out; with `--claim` its devices, and no more.

A plain program that knows neither Ray nor the ledger. It measures the slots of one visit in one process, so all of them
have the same `env`, the same `code`, which is its own, and the same timer; whoever starts it splits a visit whose slots
differ. Exit status: 0 when every
slot has its `run_ended`; 2 for a visit that cannot be run as it is written; 75 when the slots without a `run_ended`
need a fresh process; anything else is a death to be classified from outside.

Imports beyond the standard library happen in functions: the process ties its life to its parent's and arms its stack
dumps before it loads anything that takes time or can hang.
"""

import argparse
import ctypes
import faulthandler
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from core.visit import Slot, Visit
    from workers.bench.bench import Bench
    from workers.bench.wire import Wire

USAGE_EXIT = 2
# sysexits.h EX_TEMPFAIL: nothing is wrong with the remaining slots, another process can run them.
FRESH_PROCESS_EXIT = 75

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _die_with_parent(parent: int) -> None:
    """Have the kernel send SIGKILL when the thread of `parent` that forked this process ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit("the parent ended while this runner started")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers.runner", description="Measure the slots of one visit.")
    parser.add_argument("visit", type=Path, help="the visit, as JSON")
    parser.add_argument("--events", type=int, default=1, metavar="FD", help="descriptor for events (default: stdout)")
    parser.add_argument("--process", type=int, default=1, metavar="N", help="which runner of its visit this is")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="JAX's persistent compilation cache (default: none)")
    parser.add_argument("--die-with-parent", type=int, metavar="PID", help="be killed when PID, the parent, ends")
    parser.add_argument("--claim", action="store_true", help="start the visit's devices and exit 0, 1 if they do not")
    return parser.parse_args()


def _refuse(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(USAGE_EXIT)


def _read_visit(path: Path) -> "Visit":
    """The visit in a file; ends the process with one line that names file, key, value and fix when it is none."""
    from pydantic import ValidationError

    from core.visit import Visit
    from workers.bench.complaint import complaint
    from workers.bench.facts import timer_of

    try:
        visit = Visit.model_validate_json(path.read_bytes())
    except OSError as error:
        _refuse(f"{path}: cannot be read ({error.strerror}); give the path of a visit as JSON")
    except ValidationError as error:
        _refuse(f"{path}: {complaint(error)}")
    first, *others = visit.slots
    for other in others:
        if other.job.code != first.job.code:
            _refuse(
                f"{path}: slots with slot = {first.slot} and {other.slot} differ in job.code"
                f" ({first.job.code!r} and {other.job.code!r}); one process has one code: write a visit for each"
            )
        if other.job.env != first.job.env:
            _refuse(
                f"{path}: slots with slot = {first.slot} and {other.slot} differ in job.env"
                f" ({first.job.env} and {other.job.env}); one process has one env: write a visit for each"
            )
        if timer_of(other.job) != timer_of(first.job):
            _refuse(
                f"{path}: slots with slot = {first.slot} and {other.slot} are timed by {timer_of(first.job)} and"
                f" {timer_of(other.job)} (job.kind = {first.job.kind} and {other.job.kind}); one process has one timer:"
                " write a visit for each"
            )
    return visit


def _bench(slot: "Slot", wire: "Wire") -> "Bench":
    from core.job import MicroJob, SelftestJob

    if isinstance(slot.job, SelftestJob):
        from workers.selftest import SelftestBench

        return SelftestBench(slot.job, wire.write)
    if isinstance(slot.job, MicroJob):
        from workers.micro.bench import MicroBench

        return MicroBench(slot.job)
    from workers.bench.moe_block import MoeBlockBench

    return MoeBlockBench(slot.job)


def execute(visit: "Visit", wire: "Wire", process: int, cache: Path | None) -> int:
    """Measure the slots of a visit, under its settings, and say so on `wire`. Returns the exit status.

    Raises WrongDevice.
    """
    from core.events import Environment, PhaseBegan
    from core.job import SelftestJob
    from core.visit import Phase
    from workers.bench import passes
    from workers.bench.facts import process_facts, timer_of

    wire.send(PhaseBegan(slot=None, phase=Phase.START))
    wire.send(PhaseBegan(slot=None, phase=Phase.INIT))
    facts = process_facts(visit.code, timer_of(visit.slots[0].job))
    bytes_in_use = None
    if any(not isinstance(slot.job, SelftestJob) for slot in visit.slots):
        from workers.bench import devices

        bytes_in_use = devices.bytes_in_use
        facts |= devices.claim(visit.target, cache)
    wire.send(Environment(process=process, facts=facts))
    steps = [passes.Step(slot, _bench(slot, wire), wire) for slot in visit.slots]
    try:
        passes.run(visit, steps, bytes_in_use)
    except passes.MemoryNotReturned as error:
        print(f"fresh process needed: {error}", file=sys.stderr)
        return FRESH_PROCESS_EXIT
    return 0


def main() -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    arguments = _arguments()
    if arguments.die_with_parent is not None:
        _die_with_parent(arguments.die_with_parent)
    visit = _read_visit(arguments.visit)

    from workers.bench.bench import WrongDevice
    from workers.bench.settings import process_settings
    from workers.bench.wire import Wire

    wanted = process_settings(visit, os.environ)
    if wanted != dict(os.environ):
        os.set_inheritable(arguments.events, True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    try:
        if arguments.claim:
            from workers.bench import devices

            devices.claim(visit.target, cache=None)
            return 0
        return execute(visit, Wire(arguments.events), arguments.process, arguments.cache)
    except WrongDevice as error:
        print(f"wrong device: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
