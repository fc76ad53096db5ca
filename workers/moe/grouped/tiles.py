"""Tile sizes of megablox: what a job names, and for what it does not, what suits the device.

A tile is (m, k, n) in the roles of the product it is for. Forward and dlhs: m of the rows, k of the contraction, n of
the columns. drhs, the outer product: m of the rows, which it contracts, k and n of the matrices it makes.
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

Product = Literal["forward", "dlhs", "drhs"]

# A tile's edge is the whole dimension or a multiple of the vector registers' 128 lanes.
LANES = 128
# Rows of a tile come in packs of 8 sublanes, two to a word in bfloat16.
SUBLANES = 16


class Tile(NamedTuple):
    """Edges of one step's blocks."""

    m: int
    k: int
    n: int


@dataclass(frozen=True)
class Device:
    """What tile sizes depend on. `vmem_bytes`: the compiler's default limit for one kernel, on one core."""

    cores: int
    vmem_bytes: int


MIB = 2**20

# By the chip's name in core.hardware. cores: TensorCores of one JAX device, between which the leading grid axis, the
# tiles of columns, is split. vmem_bytes: the limit for one kernel; for v4 and v5p what libtpu 0.0.42 names when it
# refuses a larger tile.
DEVICES = {
    "TPU v4": Device(cores=2, vmem_bytes=16 * MIB),
    "TPU v5e": Device(cores=1, vmem_bytes=16 * MIB),
    "TPU v5p": Device(cores=2, vmem_bytes=16 * MIB),
    "TPU v6e": Device(cores=1, vmem_bytes=32 * MIB),
}
# The least of them: fits wherever one of them does.
GENERIC = Device(cores=1, vmem_bytes=16 * MIB)

# Rows of a tile. A tile of rows is computed once for every group that touches it, so a group wastes half a tile at each
# end: 128 rows keep the MXU as busy as 512. The outer product transposes its rows on the way and likes them longer.
# Predicted by the static schedule for v5p at 65 536 rows, 64 groups, 2048 x 2816 (milliseconds): whole contraction,
# 128 rows 1.89 against (512, 1024, 1024) 3.77; outer product, 256 rows 2.25 against 3.90.
ROWS = {"forward": 128, "dlhs": 128, "drhs": 256}

# Left free of VMEM for what the compiler itself puts there.
SPARE_BYTES = MIB // 2


@dataclass(frozen=True)
class Tiling:
    """Tile sizes of a job on a device. None: what `default_tile` finds."""

    device: Device
    forward: Tile | None = None
    dlhs: Tile | None = None
    drhs: Tile | None = None

    def tile(self, of: Product, problem: tuple[int, int, int], itemsize: int) -> Tile:
        """The tile of one product, no larger than its problem (rows, k, n)."""
        named = {"forward": self.forward, "dlhs": self.dlhs, "drhs": self.drhs}[of]
        return clipped(named, problem) if named else default_tile(of, problem, itemsize, self.device)


def clipped(tile: Tile, problem: tuple[int, int, int]) -> Tile:
    """`tile`, no larger than the problem (rows, k, n); rows rounded up to whole packs."""
    rows, k, n = problem
    return Tile(min(tile.m, round_up(rows, SUBLANES)), min(tile.k, k), min(tile.n, n))


def default_tile(of: Product, problem: tuple[int, int, int], itemsize: int, device: Device) -> Tile:
    """The tile that fits VMEM and reads the least, its columns in equal parts for every core.

    Raises ValueError when none fits.
    """
    rows, k, n = problem
    m = min(ROWS[of], round_up(rows, SUBLANES))
    k_parts = range(1, -(-k // LANES) + 1)
    n_parts = range(device.cores, max(device.cores, -(-n // LANES)) + 1, device.cores)
    tiles = [Tile(m, part(k, k_part), part(n, n_part)) for k_part, n_part in product(k_parts, n_parts)]
    room = device.vmem_bytes - SPARE_BYTES
    fitting = [tile for tile in tiles if vmem_bytes(of, tile, itemsize) <= room]
    if not fitting:
        raise ValueError(f"no tile of the {of} product of (m, k, n) = {problem} fits {room} bytes of VMEM")
    return min(fitting, key=lambda tile: elements_read(of, tile, problem))


def elements_read(of: Product, tile: Tile, problem: tuple[int, int, int]) -> int:
    """What the tiles of a product read of its operands again and again, in elements.

    Over rows, a group's matrix stays in VMEM while its rows go by if a tile holds the whole contraction, and is read
    once (not counted: no tile changes that); otherwise it is read again for every tile of rows.
    """
    rows, k, n = problem
    k_parts, n_parts = -(-k // tile.k), -(-n // tile.n)
    if of == "drhs":
        return rows * (k * n_parts + n * k_parts)
    return rows * k * n_parts + (-(-rows // tile.m) * k * n if k_parts > 1 else 0)


def part(size: int, parts: int) -> int:
    """The edge that divides `size` into at most `parts`: all of it, or a multiple of LANES."""
    return min(size, round_up(-(-size // parts), LANES))


def vmem_bytes(of: Product, tile: Tile, itemsize: int) -> int:
    """What a kernel keeps in VMEM: every block twice, so that one is copied while the other is used, and float32 sums.

    In bfloat16 to the byte what libtpu 0.0.42 reports when it refuses a tile. float32 at HIGHEST is multiplied in
    bfloat16 parts, which are kept as well: up to the blocks' own size again, in what it refused.
    """
    m, k, n = tile
    sums = k * n if of == "drhs" else m * n
    copies = 4 if itemsize == 4 else 2
    return copies * itemsize * (m * k + k * n + m * n) + 4 * sums


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def complaint(of: Product, tile: Tile, problem: tuple[int, int, int]) -> str | None:
    """Why a TPU cannot take a tile for a problem (rows, k, n), if it cannot."""
    if tile.m % SUBLANES:
        return f"tiles.{of} = {list(tile)}: m = {tile.m} is no multiple of {SUBLANES}"
    for name, edge, size in (("k", tile.k, problem[1]), ("n", tile.n, problem[2])):
        if edge < size and edge % LANES:
            return f"tiles.{of} = {list(tile)}: {name} = {edge} is no multiple of {LANES}, nor all {size} of it"
    return None
