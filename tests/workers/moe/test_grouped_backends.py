"""Which backend a job means on a device, and the tiles it gets there."""

import sys

import pytest

from core.job import MoeBlockJob
from workers.moe.grouped import BackendMissing, backend_of, interpreted
from workers.moe.grouped.blocked import BLOCKED
from workers.moe.grouped.ragged_dot import AUTODIFF, RAGGED_DOT
from workers.moe.grouped.tiles import DEVICES, GENERIC, MIB, Tile, Tiling, complaint, default_tile, vmem_bytes

V5P = DEVICES["TPU v5p"]
CPU, TPU = ("cpu", "cpu"), ("tpu", "TPU v5")


def job(**fields) -> MoeBlockJob:
    return MoeBlockJob(**{"tokens": 64, "hidden": 32, "mlp_dim": 48, "experts": 4, "topk": 2, **fields})


def test_backend_of_equal_jobs_is_one_object():
    tiles = {"forward": [16, 32, 16]}
    found = backend_of(job(backend="gmm", tiles=tiles), *CPU)
    assert found is backend_of(job(backend="gmm", tiles=dict(tiles), seed=1), *CPU)
    assert found is not backend_of(job(backend="gmm"), *CPU)


def test_backend_of_ragged_dot_borrows_an_outer_product_on_a_tpu_only():
    assert backend_of(job(backend="ragged_dot"), *CPU) == RAGGED_DOT
    on_tpu = backend_of(job(backend="ragged_dot"), *TPU)
    assert on_tpu.rows == RAGGED_DOT.rows
    assert on_tpu.outer != RAGGED_DOT.outer
    assert backend_of(job(backend="ragged_dot", matmul_vjp="autodiff"), *TPU) == AUTODIFF


def test_backend_of_blocked_is_the_same_everywhere():
    assert backend_of(job(backend="blocked"), *CPU) == backend_of(job(backend="blocked"), *TPU) == BLOCKED


def test_interpreted_is_gmm_off_a_tpu():
    assert interpreted(job(backend="gmm"), "cpu")
    assert not interpreted(job(backend="gmm"), "tpu")
    assert not interpreted(job(backend="blocked"), "cpu")


def test_backend_of_tokamax_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokamax", None)
    monkeypatch.delitem(sys.modules, "workers.moe.grouped.tokamax", raising=False)
    with pytest.raises(BackendMissing, match=r"pip install 'hillclimb\[tokamax\]'"):
        backend_of(job(backend="tokamax"), "cpu", "missing")


@pytest.mark.parametrize(
    ("of", "problem", "tile"),
    [
        # whole contraction, a tile of columns for each of two cores
        ("forward", (65536, 2048, 2816), (128, 2048, 1408)),
        ("forward", (65536, 1408, 2048), (128, 1408, 1024)),
        ("forward", (65536, 2048, 768), (128, 2048, 384)),
        # the outer product's matrix lies in VMEM three times
        ("drhs", (65536, 2048, 2816), (256, 1024, 1408)),
        # below the smallest tile
        ("forward", (5, 100, 36), (16, 100, 36)),
    ],
)
def test_default_tile_of_a_v5p_in_bfloat16(of, problem, tile):
    assert default_tile(of, problem, 2, V5P) == tile


@pytest.mark.parametrize("device", [*DEVICES.values(), GENERIC])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("of", ["forward", "dlhs", "drhs"])
@pytest.mark.parametrize("problem", [(65536, 8192, 4096), (1000, 200, 100), (1, 1, 1)])
def test_default_tile_any_device_fits_and_is_taken(device, itemsize, of, problem):
    tile = default_tile(of, problem, itemsize, device)
    assert vmem_bytes(of, tile, itemsize) < device.vmem_bytes
    assert complaint(of, tile, problem) is None


def test_vmem_bytes_equals_what_libtpu_reports_of_a_tile_it_refuses():
    # "Scoped allocation with size 25.38M and limit 16.00M", and 23.69M at 128 rows
    assert vmem_bytes("drhs", Tile(256, 2048, 1408), 2) == pytest.approx(25.38 * MIB, abs=0.005 * MIB)
    assert vmem_bytes("drhs", Tile(128, 2048, 1408), 2) == pytest.approx(23.69 * MIB, abs=0.005 * MIB)


def test_tile_named_by_a_job_is_clipped_to_its_problem():
    tiling = Tiling(V5P, forward=Tile(512, 1024, 1024))
    assert tiling.tile("forward", (4096, 2048, 1408), 2) == (512, 1024, 1024)
    assert tiling.tile("forward", (100, 384, 200), 2) == (112, 384, 200)
    assert tiling.tile("dlhs", (4096, 1408, 2048), 2) == default_tile("dlhs", (4096, 1408, 2048), 2, V5P)


@pytest.mark.parametrize(
    ("tile", "wrong"), [((128, 704, 512), "k = 704"), ((128, 2048, 100), "n = 100"), ((100, 2048, 512), "m = 100")]
)
def test_complaint_edge_inside_a_problem_that_is_no_whole_number_of_registers(tile, wrong):
    assert wrong in complaint("forward", Tile(*tile), (4096, 2048, 1408))
