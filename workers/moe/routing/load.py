"""How many assignments each expert gets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def expert_load(ids: NDArray[Any], experts: int) -> NDArray[np.int64]:
    """Assignments of each expert, null ones (id = experts) left out. ids: integers of any shape -> [experts]."""
    return np.bincount(ids.reshape(-1), minlength=experts)[:experts]
