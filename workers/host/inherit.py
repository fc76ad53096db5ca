"""What a runner takes from its actor's environment: a benchmark is not set up by Ray or by a shell.

What steers XLA and JAX is decided by the visit (`workers.bench.settings`); this is about the rest.
"""

import os
from collections.abc import Mapping
from pathlib import Path

# Beyond its own names Ray 2.60 gives a worker the first two (measured), and hides accelerators by the others from an
# actor that asked for none (its documentation).
_NOT_INHERITED = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
# Where this code was imported from: a runner of the host's own code executes the same as its actor.
_ROOT = Path(__file__).resolve().parents[2]


def inherited_environment(surroundings: Mapping[str, str], bundle: Path | None = None) -> dict[str, str]:
    """What is left of `surroundings` for a runner. One that runs a bundle's code finds it there, and on no path that
    its actor was given."""
    kept = {n: v for n, v in surroundings.items() if not n.startswith("RAY_") and n not in _NOT_INHERITED}
    path = [str(bundle)] if bundle else [str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}
