"""What the soak measures: four matrices, and how each must end.

`real` compiles and times small blocks; `selftest` is the bulk, one visit of 16 arms a group; `strays` runs in processes
that leave a child in a session of its own behind; `faulty` fails by its jobs' own fault, whatever else happens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

# The setting that makes a runner leave a child behind.
STRAY = "SOAK_STRAY"

# Read by every Python that a raylet starts; only a runner that is asked to forks. The child has what its parent has:
# the host's lock, the pipes, the mark. It writes down that it lives, beside this file, and ends by itself if nobody
# ends it, long after the soak has looked for it.
SITECUSTOMIZE = f"""
import os, sys, time
if os.environ.get("{STRAY}") and "workers.runner" in sys.orig_argv and os.fork() == 0:
    os.setsid()
    open(os.path.join(os.path.dirname(__file__), f"{{os.getpid()}}.stray"), "w").close()
    time.sleep(7200)
    os._exit(0)
"""

MEASURE = """
[measure]
blocks = 1
iters = 3
warmup = 1
"""

REAL = """
[experiment]
id = "real"
goal = "Does a compiled block survive?"
jobs = 24
priority = 1
[job]
kind = "moe_block"
tokens = 64
hidden = 32
mlp_dim = 48
dtype = "float32"
[axes]
experts = [4, 8]
topk = [1, 2, 4]
backend = ["ragged_dot", "blocked"]
impl = ["baseline", "fused_w13"]
[baseline]
backend = "ragged_dot"
impl = "baseline"
"""

SELFTEST = """
[experiment]
id = "selftest"
goal = "Are hundreds of jobs done, each once?"
jobs = 512
[job]
kind = "selftest"
[axes]
seed = { from = 0, to = 31, step = 1 }
sleep_s = { from = 0.10, to = 0.25, step = 0.01 }
[baseline]
sleep_s = 0.10
"""

STRAYS = f"""
[experiment]
id = "strays"
goal = "Is a host free again of what a runner left behind?"
jobs = 8
priority = 1
[job]
kind = "selftest"
env.{STRAY} = "1"
[axes]
seed = [0, 1, 2, 3]
sleep_s = [0.5, 0.6]
[baseline]
sleep_s = 0.5
"""

FAULTY = """
[experiment]
id = "faulty"
goal = "Is a job's own fault still seen as its own?"
jobs = 5
priority = 1
[job]
kind = "selftest"
signal = 11
[axes]
end = ["ok", "exit", "signal", "hang", "bad_output"]
[baseline]
end = "ok"
"""


class Matrix(NamedTuple):
    """`failing`: so many of its jobs must fail, the others must be done."""

    id: str
    text: str
    jobs: int
    failing: int = 0

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.id}.toml"
        path.write_text(self.text + MEASURE)
        return path


BULK = Matrix("selftest", SELFTEST, 512)
MATRICES = (Matrix("real", REAL, 24), Matrix("strays", STRAYS, 8), Matrix("faulty", FAULTY, 5, failing=4), BULK)


def is_bad(spec: Mapping[str, Any]) -> bool:
    """Whether a job fails by its own fault."""
    return bool(spec.get("end", "ok") != "ok")
