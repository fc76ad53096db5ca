"""Names of accelerators: what each means in JAX's words, held against libtpu, and what lies in no one machine."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware import chip_of
from core.visit import Platform, Target
from infra.accelerator import KNOWN, parse

MEANINGS = {
    "v2-8": (8, "TPU v2"),
    "v3-8": (8, "TPU v3"),
    "v4-8": (4, "TPU v4"),
    "v5litepod-1": (1, "TPU v5 lite"),
    "v5litepod-4": (4, "TPU v5 lite"),
    "v5litepod-8": (8, "TPU v5 lite"),
    "v5e-1": (1, "TPU v5 lite"),
    "v5e-4": (4, "TPU v5 lite"),
    "v5e-8": (8, "TPU v5 lite"),
    "v5p-8": (4, "TPU v5"),
    "v6e-1": (1, "TPU v6 lite"),
    "v6e-4": (4, "TPU v6 lite"),
    "v6e-8": (8, "TPU v6 lite"),
}


@pytest.mark.parametrize(("name", "meaning"), MEANINGS.items())
def test_accelerator_a_slice_of_one_machine_is_its_devices_and_their_kind(name: str, meaning: tuple[int, str]) -> None:
    devices, kind = meaning
    assert parse(name) == Target(platform=Platform.TPU, devices=devices, kind=kind)


@pytest.mark.parametrize(
    ("name", "target"),
    {
        "cpu": Target(platform=Platform.CPU, devices=4),
        "cpu-1": Target(platform=Platform.CPU, devices=1),
        "cpu-64": Target(platform=Platform.CPU, devices=64),
        "cuda": Target(platform=Platform.CUDA, devices=1),
        "cuda-8": Target(platform=Platform.CUDA, devices=8),
    }.items(),
)
def test_accelerator_that_is_no_tpu_is_a_number_of_devices_of_any_kind(name: str, target: Target) -> None:
    assert parse(name) == target


@pytest.mark.parametrize(
    ("name", "way_out"),
    {
        "v2-32": "use v2-8",
        "v3-32": "use v3-8",
        "v4-16": "use v4-8",
        "v5p-16": "use v5p-8",
        "v5p-12288": "use v5p-8",
        "v5litepod-16": "use v5litepod-1 or v5litepod-4 or v5litepod-8",
        "v6e-256": "use v6e-1 or v6e-4 or v6e-8",
    }.items(),
)
def test_accelerator_that_spans_machines_is_refused_with_what_does_not(name: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=f"{name} spans several machines, and a visit runs on one: {way_out}$"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "way_out"),
    {
        "v5p": "there is no v5p: write v5p-8",
        "v5p-": "write one of v2-8,",
        "v5p-4": "there is no v5p-4: write v5p-8",
        "v5p-08": "write one of v2-8,",
        "cpu-" + 5000 * "9": "write one of v2-8,",
        "v6e-2": "write v6e-1 or v6e-4 or v6e-8",
        "v5": "write one of v2-8,",
        "tpu": "write one of v2-8,",
        "V5P-8": "write one of v2-8,",
        "": "write one of v2-8,",
        "cpu-0": "write one of v2-8,",
        "cpu-": "write one of v2-8,",
        "cpu-65": "write one of v2-8,",
        "cuda-²": "write one of v2-8,",
        "cuda -8": "write one of v2-8,",
    }.items(),
)
def test_accelerator_that_is_not_known_is_refused_with_those_that_are(name: str, way_out: str) -> None:
    with pytest.raises(ValueError, match="write ") as refused:
        parse(name)
    assert way_out in str(refused.value)


@given(st.text())
def test_accelerator_any_text_is_either_known_or_refused_with_a_way_out(text: str) -> None:
    try:
        target = parse(text)
    except ValueError as refusal:
        assert "write " in str(refusal) or "use " in str(refusal)
    else:
        assert target.devices >= 1


def test_accelerator_every_name_that_a_refusal_offers_is_known() -> None:
    assert set(MEANINGS) | {"cpu", "cuda", "cuda-8"} == set(KNOWN)
    assert all(parse(name).devices for name in KNOWN)


def test_accelerator_chips_with_a_published_peak_are_asserted_by_the_name_they_report() -> None:
    kinds = {parse(name).kind for name in MEANINGS} - {"TPU v2", "TPU v3"}
    assert {chip.name for kind in kinds if (chip := chip_of(kind))} == {"TPU v4", "TPU v5e", "TPU v5p", "TPU v6e"}


# topology of the slice, its chips on one host. Not v4: libtpu shows its cores apart until the driver of a real one
# joins them.
TOPOLOGIES = {
    "v2-8": ("v2:2x2", [2, 2, 1]),
    "v3-8": ("v3:2x2", [2, 2, 1]),
    "v5litepod-1": ("v5e:1x1", [1, 1, 1]),
    "v5litepod-4": ("v5e:2x2", [2, 2, 1]),
    "v5litepod-8": ("v5e:2x4", [2, 4, 1]),
    "v5p-8": ("v5p:2x2x1", [2, 2, 1]),
    "v6e-1": ("v6e:1x1", [1, 1, 1]),
    "v6e-4": ("v6e:2x2", [2, 2, 1]),
    "v6e-8": ("v6e:2x4", [2, 4, 1]),
}
DEVICES = """
import json, sys
from jax.experimental.topologies import get_topology_desc

def seen(topology, bounds):
    devices = get_topology_desc(topology, "tpu", chips_per_host_bounds=tuple(bounds)).devices
    return [len(devices), sorted({d.device_kind for d in devices}), sorted({d.process_index for d in devices})]

print(json.dumps({name: seen(*slice) for name, slice in json.loads(sys.argv[1]).items()}))
"""


@pytest.mark.slow
def test_accelerator_is_what_libtpu_says_of_that_slice() -> None:
    # a process of its own: libtpu is loaded once in the life of a process
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    command = [sys.executable, "-c", DEVICES, json.dumps(TOPOLOGIES)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen == {name: [parse(name).devices, [parse(name).kind], [0]] for name in TOPOLOGIES}
