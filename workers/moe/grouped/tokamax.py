"""Grouped matmul by tokamax, an optional package of accelerator kernels.

Left to itself tokamax falls back on plain XLA where its kernel cannot take a problem: a kernel that was asked for is
asked for by name here, and raises NotImplementedError instead.
"""

from functools import partial

import tokamax

from workers.moe.grouped import ragged_dot
from workers.moe.grouped.matmul import Backend

# By platform: a kernel where there is one.
IMPLEMENTATIONS = {"tpu": ("mosaic",), "gpu": ("mosaic", "triton"), "cpu": ("xla",)}


def by_platform(platform: str) -> Backend:
    """tokamax's products on "tpu", "gpu" or "cpu"."""
    return ragged_dot.by(partial(tokamax.ragged_dot_general, implementation=IMPLEMENTATIONS[platform]))
