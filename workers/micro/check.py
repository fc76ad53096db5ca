"""Is what a micro-benchmark returned right? Everything it returned, at full size, against the NumPy reference.

What is only moved or counted must be equal: ids, places and packed rows. What is computed may differ by rounding, once
to the job's dtype.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from workers.bench.bench import Checked, Measure
from workers.bench.check import BOUNDS, SMALLEST_ROW, Bounds, relative_errors, too_far
from workers.moe.stages import State

EXACT = ("ids", "dispatch", "packed")

# float16 has three bits more than bfloat16, so its rounding is 8 times finer.
MICRO_BOUNDS = BOUNDS | {"float16": Bounds(2e-2 / 8, 4e-2 / 8)}


def check(returned: State, expected: State, dtype: str) -> Checked:
    """Compare each array that was returned with the one of its name. Measures of those that are computed."""
    measures: list[Measure] = []
    refusals: list[str] = []
    for name, found in returned.items():
        if name in EXACT:
            refusals.extend(_unequal(name, found, expected[name]))
            continue
        if found.dtype != dtype:
            refusals.append(f"{name} is {found.dtype}, and the job's dtype is {dtype}")
        array, wanted = np.asarray(found, np.float32), np.asarray(expected[name], np.float32)
        error = relative_errors(array, wanted, SMALLEST_ROW)
        measures += [Measure("rel_error", error.whole, name), Measure("worst_error", error.worst, name)]
        refusals += too_far({name: error}, MICRO_BOUNDS[dtype], dtype)
    return Checked(tuple(measures), "; ".join(refusals) or None)


def _unequal(name: str, found: Any, expected: Any) -> Iterator[str]:
    """One sentence for each array in which an element differs."""
    leaves = zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True)
    for (path, leaf), wanted in leaves:
        wrong = _rows_unequal(np.asarray(leaf), np.asarray(wanted))
        if wrong.size:
            part = name + jax.tree_util.keystr(path)
            yield f"{part} is wrong in {wrong.size} of its {len(wanted)} rows, first in row {wrong[0]}"


def _rows_unequal(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.intp]:
    """Leading indices at which two arrays differ; NaN differs from everything."""
    if found.shape != expected.shape:
        return np.arange(max(len(found), len(expected)))
    return np.flatnonzero((found != expected).reshape(len(found), -1).any(axis=1))
