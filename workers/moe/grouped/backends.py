"""Which backend a job means on a device, and what it can do there."""

from functools import cache

from core.hardware import chip_of
from core.job import MoeBlockJob
from workers.moe.grouped.blocked import BLOCKED
from workers.moe.grouped.matmul import Backend
from workers.moe.grouped.ragged_dot import AUTODIFF, RAGGED_DOT, with_outer
from workers.moe.grouped.tiles import DEVICES, GENERIC, Tile, Tiling


class BackendMissing(Exception):
    """The package a backend needs is not installed. The message says how to install it."""


def backend_of(job: MoeBlockJob, platform: str, device_kind: str) -> Backend:
    """The job's grouped matmul on a device (`jax.Device.platform`, `.device_kind`), made once.

    Raises BackendMissing.
    """
    chip = chip_of(device_kind)
    device = GENERIC if chip is None else DEVICES.get(chip.name, GENERIC)
    tiling = Tiling(device, **{of: Tile(*edges) for of, edges in job.tiles.items()})
    return _backend(job.backend, job.matmul_vjp, tiling, platform)


def interpreted(job: MoeBlockJob, platform: str) -> bool:
    """Whether a kernel of the job can only be interpreted there: such a job is checked and never timed."""
    return job.backend == "gmm" and platform != "tpu"


@cache
def _backend(name: str, matmul_vjp: str, tiling: Tiling, platform: str) -> Backend:
    """Kernels are imported when a job asks for them: Pallas takes a third of a second."""
    on_tpu = platform == "tpu"
    match name, matmul_vjp:
        case "blocked", _:
            return BLOCKED
        case "ragged_dot", "autodiff":
            return AUTODIFF
        case "ragged_dot", "custom" if not on_tpu:
            return RAGGED_DOT
        case "ragged_dot", "custom":
            from workers.moe.grouped.gmm import tgmm

            return with_outer(tgmm(tiling, interpret=False))
        case "gmm", _:
            from workers.moe.grouped.gmm import gmm

            return gmm(tiling, interpret=not on_tpu)
        case "tokamax", _:
            return _tokamax(platform)
    raise ValueError(f"no grouped matmul of backend = {name}, matmul_vjp = {matmul_vjp}")


def _tokamax(platform: str) -> Backend:
    try:
        from workers.moe.grouped.tokamax import by_platform
    except ImportError as error:
        raise BackendMissing(
            f"backend = tokamax cannot be imported ({error}); install it: pip install 'hillclimb[tokamax]' (on an "
            "ssh pool: into an interpreter that the pool file names as `python`)"
        ) from error
    return by_platform(platform)
