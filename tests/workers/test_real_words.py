"""What JAX, XLA and libtpu really say when they fail, each made to say it here, and what is made of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.events import RunEnded, VisitEnded
from core.failures import Kind
from core.job import MoeBlockJob
from core.visit import Phase, Platform, Slot, Target, Visit
from tests.workers.test_supervisor import Bench
from workers.host.code import RUNNER
from workers.host.verdict import Evidence, Verdict, verdict
from workers.supervisor import Supervisor

pytestmark = pytest.mark.slow

# libtpu is loaded without its lock, which other tests may hold, and without asking a metadata server that is not there.
ALONE = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
HAS_TPU = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev").glob("vfio/[0-9]*"))
no_tpu = pytest.mark.skipif(HAS_TPU, reason="this machine has a TPU: libtpu finds it")


def small(**fields) -> MoeBlockJob:
    return MoeBlockJob(
        **{"tokens": 48, "hidden": 16, "mlp_dim": 24, "experts": 4, "topk": 2, "dtype": "float32"},
        **{"backend": "blocked", **fields},
    )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Supervisors with the real runner."""
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    made = Bench(tmp_path)
    made.workplace = replace(made.workplace, codes=replace(made.workplace.codes, command=RUNNER))
    yield made
    os.close(made.lock)


async def ended(bench: Bench, target: Target, *jobs: MoeBlockJob) -> tuple[VisitEnded, list[RunEnded]]:
    slots = tuple(Slot(slot=number, job=job) for number, job in enumerate(jobs))
    visit = Visit(visit=3, slots=slots, iters=1, warmup=0, target=target)
    return await bench.finish(Supervisor(visit, bench.journal, bench.workplace)), bench.journal.of(RunEnded)


@no_tpu
async def test_visit_on_a_machine_without_a_tpu_blames_the_host(bench: Bench) -> None:
    end, runs = await ended(bench, Target(platform=Platform.TPU, devices=4), small())
    assert (end.state, end.kind, runs) == ("failed", Kind.TPU_MISSING, [])
    assert "No jellyfish device found" in end.reason


async def test_visit_whose_flag_xla_does_not_know_is_an_abort_of_xla(bench: Bench) -> None:
    end, runs = await ended(bench, Target(devices=2), small(env={"XLA_FLAGS": "--xla_nonsense=1"}))
    assert (end.state, end.kind) == ("failed", Kind.XLA_ABORT)
    assert [(run.outcome, run.kind, run.phase) for run in runs] == [("failed", Kind.XLA_ABORT, Phase.INIT)]
    assert "Unknown flag in XLA_FLAGS: --xla_nonsense=1" in end.reason


async def test_visit_with_settings_that_show_other_devices_fails_the_arms_that_have_them(bench: Bench) -> None:
    five = {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    end, runs = await ended(bench, Target(devices=2), small(env=five), small())
    assert end.state == "finished"
    found = {run.slot: run for run in runs}
    assert (found[0].outcome, found[0].kind, found[0].phase) == ("failed", Kind.CRASH, Phase.INIT)
    assert "asks for 2 cpu devices, JAX shows 5 cpu" in found[0].reason
    assert found[1].outcome == "ok"


@pytest.mark.parametrize(("kind", "expected"), [("TPU v5", Kind.WRONG_DEVICE), ("cpu", None)])
async def test_visit_that_names_a_kind_of_device_runs_on_no_other(
    bench: Bench, kind: str, expected: Kind | None
) -> None:
    end, runs = await ended(bench, Target(devices=2, kind=kind), small())
    assert end.kind is expected
    assert [run.outcome for run in runs] == ([] if expected else ["ok"])
    assert expected is None or "asks for devices of kind 'TPU v5', JAX shows 'cpu'" in end.reason


def died(code: str, env: dict[str, str], **options) -> Verdict:
    """What is made of a process that starts its devices with `code`."""
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ALONE | env, capture_output=True, text=True, **options
    )
    return verdict(Evidence(process.returncode, Phase.INIT, process.stderr[-12_000:]))


@no_tpu
def test_fallback_to_the_cpu_is_seen() -> None:
    """As it happens where nobody sets JAX_PLATFORMS."""
    code = (
        "from core.visit import Platform, Target; from workers.bench.devices import claim\n"
        "try: claim(Target(platform=Platform.TPU), None)\n"
        "except Exception as error: raise SystemExit(f'wrong device: {error}')"
    )
    found = died(code, {"JAX_PLATFORMS": ""})
    assert found.kind is Kind.CPU_FALLBACK
    assert "asks for 4 tpu devices" in found.because


def test_platform_without_a_plugin_is_missing() -> None:
    code = (
        "from core.visit import Platform, Target; from workers.bench.devices import claim\n"
        "try: claim(Target(platform=Platform.CUDA), None)\n"
        "except Exception as error: raise SystemExit(f'wrong device: {error}')"
    )
    assert died(code, {"JAX_PLATFORMS": "cuda"}).kind is Kind.TPU_MISSING


def test_abort_of_libtpu_is_one_of_xla() -> None:
    """libtpu looks for its files beside the working directory, and aborts when that is gone: signal 6."""
    code = "import jax, os, tempfile; gone = tempfile.mkdtemp(); os.chdir(gone); os.rmdir(gone); jax.devices()"
    found = died(code, {"JAX_PLATFORMS": "tpu"})
    assert found.kind is Kind.XLA_ABORT
    assert "No such file or directory" in found.because


def test_package_that_is_not_there_is_an_environment_that_differs(tmp_path: Path) -> None:
    (tmp_path / "jax.py").write_text("import no_such_package")
    found = died("import workers.bench.devices", {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"})
    assert found == Verdict(Kind.ENVIRONMENT_MISMATCH, "ModuleNotFoundError: No module named 'no_such_package'")


# Runs in a mount namespace with a /tmp that is a copy on write: its libtpu lock is its own.
CONTEND = """
import json, os, subprocess, sys
from pathlib import Path

lock = Path("/tmp/libtpu_lockfile")
lock.unlink(missing_ok=True)
base = {name: value for name, value in os.environ.items() if name != "ALLOW_MULTIPLE_LIBTPU_LOAD"}
env = base | {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
AOT = '''
import jax, os, sys
from jax.experimental import topologies
jax.devices()
if len(sys.argv) > 1: os.setresuid(65534, 65534, 65534)
topologies.get_topology_desc("v5p:2x2x1", "tpu")
print("up", flush=True)
sys.stdin.read()
'''
START = "import jax; jax.devices()"

def start(code, *arguments, **more):
    run = subprocess.run([sys.executable, "-c", code, *arguments], env=env | more, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True)
    return run.returncode, run.stderr[-12000:]

holder = subprocess.Popen([sys.executable, "-c", AOT], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True)
assert holder.stdout.readline() == "up\\n"
inode = lock.stat().st_ino
found = {"compile": start(AOT), "start": start(START, JAX_PLATFORMS="tpu"), "other user": start(AOT, "as nobody")}
assert lock.stat().st_ino == inode
holder.stdin.close()
holder.wait()
found["free again"] = start(AOT)
print(json.dumps(found))
"""
PRIVATE_TMP = """
set -e
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay none -o "lowerdir=/tmp,upperdir=$1/upper,workdir=$1/work" /tmp
shift
exec "$@"
"""


@no_tpu
def test_two_processes_of_libtpu_contend_for_its_lock() -> None:
    room = Path("/run") / f"hillclimb-test-{os.getpid()}"
    try:
        room.mkdir()
    except OSError as error:
        pytest.skip(f"no mount namespace here, so no two libtpu contend: {error}")
    try:
        command = ["unshare", "--mount", "bash", "-c", PRIVATE_TMP, "bash", str(room), sys.executable, "-c", CONTEND]
        run = subprocess.run(command, cwd="/", capture_output=True, text=True)
    finally:
        room.rmdir()
    if "mount" in run.stderr and run.returncode:
        pytest.skip(f"no private /tmp can be made here, so no two libtpu contend: {run.stderr[:200]}")
    assert run.returncode == 0, run.stderr[-2000:]
    found = {name: Evidence(code, Phase.INIT, said) for name, (code, said) in json.loads(run.stdout).items()}
    assert found["free again"].returncode == 0
    words = {
        "compile": "Internal error when accessing libtpu multi-process lockfile",
        "start": "Internal error when accessing libtpu multi-process lockfile",
        "other user": "The TPU is already in use by another process probably owned by another user",
    }
    for name, text in words.items():
        assert found[name].returncode == 1
        assert verdict(found[name]).kind is Kind.TPU_BUSY
        assert text in verdict(found[name]).because


COMPILE = """
import json
import jax, jax.numpy as jnp
from jax.experimental import pallas as pl, topologies
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm
from jax.sharding import SingleDeviceSharding

from core.visit import Phase
from workers.bench.faults import fault_of

device = SingleDeviceSharding(topologies.get_topology_desc("v5p:2x2x1", "tpu").devices[0])

def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

def kind(program, *arguments):
    try:
        jax.jit(program).trace(*arguments).lower(lowering_platforms=("tpu",)).compile()
    except Exception as error:
        return fault_of(error, Phase.COMPILE)
    return None

def corner(x_ref, y_ref, *scratch):
    y_ref[:8, :128] = x_ref[:8, :128]

def tiled(rows, **options):
    block = pl.BlockSpec((rows, 4096), lambda i: (i, 0))
    def call(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(corner, grid=(4,), in_specs=[block], out_specs=block, out_shape=shape, **options)(x)
    return call

print(json.dumps({
    "temporaries": kind(lambda x: jnp.einsum("ij,kj->ik", x, x), array(400_000, 128, dtype=jnp.float32)),
    "arguments": kind(lambda x, y: x[0, 0] + y[0, 0], array(40, 1 << 30), array(40, 1 << 30)),
    "scratch": kind(tiled(8, scratch_shapes=[pltpu.VMEM((8192, 8192), jnp.float32)]), array(32, 4096)),
    "windows": kind(tiled(4096), array(16384, 4096)),
    "scoped": kind(tiled(1024), array(4096, 4096)),
    "tgmm": kind(lambda a, b, sizes: tgmm(a.T, b, sizes, tiling=(128, 2048, 2816)),
                 array(32768, 2048), array(32768, 2816), array(60, dtype=jnp.int32)),
    "scalars": kind(tiled(8, scratch_shapes=[pltpu.SMEM((8192, 1024), jnp.float32)]), array(32, 4096)),
    "other": kind(tiled(7), array(28, 4096)),
}))
"""


def test_compiler_for_a_v5p_says_which_memory_is_full() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=os.environ | ALONE | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    kinds = {name: fault and fault[0] for name, fault in found.items()}
    assert kinds == {
        "temporaries": Kind.HBM_OOM,
        "arguments": Kind.HBM_OOM,
        "scratch": Kind.VMEM_OOM,
        "windows": Kind.VMEM_OOM,
        "scoped": Kind.VMEM_OOM,
        "tgmm": Kind.VMEM_OOM,
        "scalars": Kind.VMEM_OOM,
        "other": Kind.COMPILE_ERROR,
    }
    assert "exceeds available HBM" in found["temporaries"][1]
    assert "exceeded scoped vmem limit" in found["scoped"][1]
