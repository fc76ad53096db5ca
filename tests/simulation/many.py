"""`python -m tests.simulation.many FIRST COUNT`: the long run. A line for every failing seed, and a summary.

SIGINT or SIGTERM ends it with what there is.
"""

import signal
import sys
import time
from collections import Counter

from tests.simulation.seeds import simulate


def main(first: int, count: int) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began, done, failed, steps = time.monotonic(), 0, 0, 0
    fired: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    try:
        for seed in range(first, first + count):
            try:
                world = simulate(seed)
            except Exception as error:  # noqa: BLE001 - one bad seed must not hide the next
                failed += 1
                notes = getattr(error, "__notes__", ()) if count == 1 else error.__notes__[-1:]
                print(f"seed {seed}: {type(error).__name__}: {error}", *notes, sep="\n", flush=True)
            else:
                steps += world.steps
                fired += world.fired
                spent += world.tally
            done += 1
    except KeyboardInterrupt:
        pass
    took_s = time.monotonic() - began
    print(f"{done} seeds, {failed} failed, {steps} steps in {took_s:.0f} s ({steps / took_s:.0f} a second)")
    for what in (fired, spent):
        print(", ".join(f"{n:.0f} {name}" for name, n in sorted(what.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
