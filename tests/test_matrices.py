"""The shipped matrices: every file is one well-put question, and every large one has a twin that a CPU can run."""

import re
from collections import Counter
from pathlib import Path

import pytest

from core.matrix import Expansion, read_matrix

ROOT = Path(__file__).parents[1] / "matrices"
FILES = sorted(ROOT.glob("**/*.toml"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
# a CPU's question from the start, and so without a twin
FIRST = "first.toml"
LARGE = [name for name in NAMES if "/" not in name and name != FIRST]
TWINS = [name for name in NAMES if name.startswith("small/")]

FUSED_EP = "parallel_mode = fused_ep is not built yet"
PREQUEUE_BACKWARD = "queue_mode = prequeue: dispatch is part of what forward_backward differentiates"
PREQUEUE_EP = "queue_mode = prequeue: parallel_mode = ep dispatches between devices"
TOKAMAX = "backend = tokamax is used for the forward pass only"
INT8_ALL = "quant_mode = int8_all without a shared expert is int8_routed; write that"
# The only files with cells that have no job, how many, and why.
WITHOUT_JOB = {
    "backends.toml": {TOKAMAX: 8},
    "fused_ep_blocks.toml": {FUSED_EP: 6},
    "int8.toml": {INT8_ALL: 8},
    "int8_stages.toml": {INT8_ALL: 1},
    "overlap.toml": {FUSED_EP: 10},
    "prequeue.toml": {PREQUEUE_BACKWARD: 4, PREQUEUE_EP: 4},
    "small/fused_ep_blocks.toml": {FUSED_EP: 2},
    "small/int8.toml": {INT8_ALL: 1},
    "small/int8_stages.toml": {INT8_ALL: 1},
    "small/overlap.toml": {FUSED_EP: 3},
    "small/prequeue.toml": {PREQUEUE_BACKWARD: 1, PREQUEUE_EP: 1},
}


@pytest.fixture(scope="module")
def expansions() -> dict[str, Expansion]:
    return {name: read_matrix(ROOT / name) for name in NAMES}


def axes(expansion: Expansion) -> list[str]:
    """The axes, in order; a process setting of one platform stands for another's."""
    return [re.sub(r"^env\..*", "env", axis) for axis in expansion.cells[0].coordinates]


def baseline_keys(expansion: Expansion) -> set[str]:
    return {re.sub(r"^env\..*", "env", axis) for axis in expansion.baseline}


def test_matrices_each_ask_a_question_under_an_id_of_their_own(expansions: dict[str, Expansion]) -> None:
    assert [name for name, e in expansions.items() if not e.goal.endswith("?")] == []
    assert [i for i, count in Counter(e.experiment for e in expansions.values()).items() if count > 1] == []
    for name, expansion in expansions.items():
        stem = Path(name).stem.replace("_", "-")
        assert expansion.experiment == (f"{stem}-small" if name in TWINS else stem)


def test_matrices_each_begin_with_the_command_that_runs_them() -> None:
    for name in NAMES:
        first = (ROOT / name).read_text().splitlines()[0]
        assert first.removesuffix(" --pool POOL.toml") == f"# hillclimb run matrices/{name}"


def test_table_commands_in_heads_name_every_axis_that_varies(expansions: dict[str, Expansion]) -> None:
    commands = [(name, line) for name in LARGE for line in (ROOT / name).read_text().splitlines() if "--rows" in line]
    assert len(commands) == 8
    for name, line in commands:
        expansion = expansions[name]
        varying = {axis for axis in axes(expansion) if len({c.coordinates[axis] for c in expansion.cells}) > 1}
        wheres = re.findall(r"--where (\w+)=(\S+)", line)
        named = {*re.findall(r"--(?:rows|cols) (\w+)", line), *(axis for axis, _ in wheres)}
        assert line.startswith(f"# hillclimb table {expansion.experiment} ")
        assert named == varying
        for axis, value in wheres:
            assert any(cell.coordinates[axis] == value for cell in expansion.cells)


def test_matrices_each_state_their_number_of_jobs(expansions: dict[str, Expansion]) -> None:
    for name, expansion in expansions.items():
        said = re.search(r"^jobs = (\d+)$", (ROOT / name).read_text(), re.MULTILINE)
        assert said is not None and int(said[1]) == len(expansion.jobs), name


def test_matrices_compare_every_arm_with_one_reference_of_its_visit(expansions: dict[str, Expansion]) -> None:
    for name, expansion in expansions.items():
        assert expansion.baseline, name
        for group in expansion.groups:
            references = set(group.reference_of)
            assert all(group.reference_of[reference] == reference for reference in references), name
        # a group with nothing to compare measures for nobody, but for the blocks that no kernel has yet
        assert all(len(group.jobs) > 1 for group in expansion.groups) or "fused_ep_blocks" in name, name


def test_matrices_have_cells_without_a_job_only_where_and_why_expected(expansions: dict[str, Expansion]) -> None:
    found = {name: dict(Counter(c.why for c in e.cells if c.why is not None)) for name, e in expansions.items()}
    assert {name: whys for name, whys in found.items() if whys} == WITHOUT_JOB


def test_large_matrices_and_twins_stand_in_pairs() -> None:
    assert [f"small/{name}" for name in LARGE] == TWINS


@pytest.mark.parametrize("name", LARGE)
def test_twin_has_the_axes_and_the_baseline_of_the_large_one(name: str, expansions: dict[str, Expansion]) -> None:
    large, twin = expansions[name], expansions[f"small/{name}"]
    assert axes(twin) == axes(large)
    assert baseline_keys(twin) == baseline_keys(large)
    assert {job.kind for job in twin.jobs} == {job.kind for job in large.jobs}


@pytest.mark.parametrize("name", LARGE)
def test_arms_of_a_large_matrix_share_their_process_settings(name: str, expansions: dict[str, Expansion]) -> None:
    for group in expansions[name].groups:
        settings = {tuple(sorted(job.env.items())) for job in group.jobs}
        assert len(settings) == (2 if name == "scoped_vmem.toml" else 1)


def test_quantised_arms_are_compared_with_the_same_backend(expansions: dict[str, Expansion]) -> None:
    for name in (name for name in NAMES if "int8" in name):
        for group in expansions[name].groups:
            assert len({job.backend for job in group.jobs if job.kind == "moe_block"}) == 1


def test_null_routing_is_the_logbooks_ninety_points(expansions: dict[str, Expansion]) -> None:
    expansion = expansions["null_routing.toml"]
    assert len(expansion.jobs) == 90
    assert [len(group.jobs) for group in expansion.groups] == [10] * 9
    # 0.3 as written, not the 0.30000000000000004 that adding 0.1 gives
    assert [cell.coordinates["null_route_frac"] for cell in expansion.cells[:10]] == [
        *("0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")
    ]


def test_readme_says_which_section_every_large_matrix_repeats() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ") and "`" in line]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[-1])}
    assert {Path(name).stem for name in LARGE} - named == set()
