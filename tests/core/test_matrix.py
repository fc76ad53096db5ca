"""Matrices: what expands to what, by example and by property."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.job import parse_job
from core.labels import labels
from core.matrix import (
    MAX_ARMS,
    NO_OVERRIDES,
    Expansion,
    MatrixError,
    Overrides,
    expand,
    read_matrix,
    revisions_of,
)
from core.matrix.places import Places, lines_of
from core.matrix.values import several

FIRST = Path(__file__).parents[2] / "matrices" / "first.toml"

HEAD = """
[experiment]
id = "test"
goal = "Does it expand?"
[job]
kind = "moe_block"
tokens = 1024
hidden = 128
mlp_dim = 256
"""


def expanded(body: str, **overrides: Any) -> Expansion:
    return expand(HEAD + body, "test.toml", Overrides(**overrides))


def names(expansion: Expansion) -> list[list[str]]:
    """The groups, each as the labels of its jobs."""
    name = dict(zip((job.id for job in expansion.jobs), labels(expansion.jobs), strict=True))
    return [[name[job.id] for job in group.jobs] for group in expansion.groups]


def test_first_matrix_is_one_group_of_six_arms_each_paired_at_its_own_experts() -> None:
    expansion = read_matrix(FIRST)
    assert (expansion.experiment, expansion.interleaved) == ("first", ("backend", "experts"))
    assert (expansion.measure.blocks, expansion.measure.iters, expansion.measure.warmup) == (4, 5, 2)
    assert names(expansion) == [
        ["ragged_dot e4", "blocked e4", "ragged_dot e8", "blocked e8", "ragged_dot e16", "blocked e16"]
    ]
    assert expansion.groups[0].reference_of == (0, 0, 2, 2, 4, 4)
    assert [cell.reference for cell in expansion.cells] == [True] * 3 + [False] * 3
    assert expansion.notes == ()


BUNDLES = """
topk = 2
backend = "blocked"
[axes]
shape = ["L", "S"]
impl = ["baseline", "fused_w13"]
[bundles.shape]
S = { experts = 4, dtype = "float32" }
L = { experts = 8, seed = 3 }
"""


def test_expand_of_a_bundle_sets_all_its_fields_and_leaves_the_others_at_their_defaults() -> None:
    expansion = expanded(BUNDLES)
    assert [(job.experts, job.dtype, job.seed, job.impl) for job in expansion.jobs] == [
        (8, "bfloat16", 3, "baseline"),
        (8, "bfloat16", 3, "fused_w13"),
        (4, "float32", 0, "baseline"),
        (4, "float32", 0, "fused_w13"),
    ]
    assert expansion.cells[0].coordinates == {"shape": "L", "impl": "baseline"}


def test_expand_with_a_bundle_as_baseline_compares_its_labels() -> None:
    expansion = expanded(BUNDLES + '[baseline]\nshape = "S"\n')
    assert [group.label for group in expansion.groups] == ["impl=baseline", "impl=fused_w13"]
    assert [group.reference_of for group in expansion.groups] == [(0, 0), (0, 0)]
    assert [[job.experts for job in group.jobs] for group in expansion.groups] == [[4, 8], [4, 8]]


def test_expand_without_a_baseline_makes_every_job_a_group_of_its_own() -> None:
    expansion = expanded(BUNDLES)
    assert [(len(group.jobs), group.reference_of) for group in expansion.groups] == [(1, (0,))] * 4
    assert not any(cell.reference for cell in expansion.cells)


def test_expand_of_env_axis_makes_arms_that_differ_in_it_alone() -> None:
    expansion = expanded(
        'experts = 4\ntopk = 2\nbackend = "blocked"\n[job.env]\nA = "1"\n'
        '[axes]\nenv.FLAGS = ["", "--x=1,2"]\n[baseline]\nenv.FLAGS = ""\n'
    )
    assert [job.env for job in expansion.groups[0].jobs] == [{"A": "1", "FLAGS": ""}, {"A": "1", "FLAGS": "--x=1,2"}]
    assert expansion.baseline == {"env.FLAGS": ""}
    assert names(expansion) == [["FLAGS=''", "FLAGS='--x=1,2'"]]


TILES = """
experts = 4
topk = 2
bench_pass = "forward_backward"
[job.tiles]
forward = [512, 1024, 1024]
[axes]
tiling = ["whole", "narrow"]
backend = ["gmm", "blocked"]
[bundles.tiling]
whole = { tiles = { dlhs = [128, 2816, 512] } }
narrow = { tiles = { dlhs = [128, 128, 128], drhs = [256, 128, 128] } }
[baseline]
tiling = "whole"
"""


def test_expand_of_tiles_sets_each_product_where_it_is_written() -> None:
    expansion = expanded(TILES)
    assert [job.tiles for job in expansion.jobs] == [
        {"forward": [512, 1024, 1024], "dlhs": [128, 2816, 512]},
        {},
        {"forward": [512, 1024, 1024], "dlhs": [128, 128, 128], "drhs": [256, 128, 128]},
    ]
    assert [group.label for group in expansion.groups] == ["backend=gmm", "backend=blocked"]
    assert expansion.groups[0].reference_of == (0, 0)
    # blocked has no tiles: both labels of the bundle are one job there
    assert [cell.folded_into for cell in expansion.cells] == [None, None, None, 1]
    assert expansion.notes == (
        "4 cells are 3 jobs: tiles.dlhs cannot matter for backend = blocked; "
        "tiles.drhs cannot matter for backend = blocked",
    )


def test_expand_of_tiles_as_an_axis_compares_them_by_name() -> None:
    expansion = expanded(
        "experts = 4\ntopk = 2\n[axes]\ntiles.forward = [[512, 256, 128], [128, 128, 128]]\n"
        "[baseline]\ntiles.forward = [128, 128, 128]\n"
        '[[exclude]]\ntiles.forward = [512, 256, 128]\nwhy = "slow"\n'
        "[[include]]\ntiles.forward = [[64, 64, 64], [256, 64, 64]]\n"
    )
    assert [cell.coordinates["tiles.forward"] for cell in expansion.cells if cell.why is None] == [
        "[128, 128, 128]",
        "[64, 64, 64]",
        "[256, 64, 64]",
    ]
    assert names(expansion) == [
        ["tiles.forward=128x128x128", "tiles.forward=64x64x64", "tiles.forward=256x64x64"],
    ]
    assert Expansion.model_validate_json(expansion.model_dump_json()) == expansion


def test_expand_with_typed_tiles_takes_them_as_the_file_would() -> None:
    typed = expanded(
        TILES,
        axes={"tiles.forward": "[[512, 256, 128], [64, 64, 64]]", "backend": "gmm"},
        exclude=("tiles.forward=[64,64,64],tiling=narrow",),
    )
    assert [(job.tiles["forward"], cell.why is None) for job, cell in zip(typed.jobs, typed.cells, strict=False)] == [
        ([512, 256, 128], True),
        ([64, 64, 64], True),
        ([512, 256, 128], True),
    ]
    assert typed.cells[3].why == "excluded: -x tiles.forward=[64,64,64],tiling=narrow"
    fixed = expanded(TILES, sets=("job.tiles.forward=[16, 128, 128]",))
    assert fixed.jobs[0].tiles["forward"] == [16, 128, 128]


def test_expand_of_a_choice_between_a_text_and_a_number_keeps_both() -> None:
    body = 'experts = 4\ntopk = 2\nparallel_mode = "ep"\n[axes]\ndevices = [1, "all"]\n[baseline]\ndevices = 1\n'
    expansion = expanded(body)
    assert [job.devices for job in expansion.groups[0].jobs] == [1, "all"]
    assert names(expansion) == [["devices=1", "devices=all"]]
    assert [job.devices for job in expanded(body, axes={"devices": "all,1"}).jobs] == ["all", 1]


def test_expand_of_whole_numbers_for_fractions_makes_the_same_jobs() -> None:
    body = 'experts = 4\ntopk = 2\ncapacity_policy = "pad"\n[axes]\ncapacity_factor = [{}]\nnull_route_frac = {}\n'
    whole = expanded(body.format("1, 2", "{ from = 0, to = 1, step = 1 }"))
    point = expanded(body.format("1.0, 2.00", "{ from = 0.0, to = 1.0, step = 1.0 }"))
    assert [job.id for job in whole.jobs] == [job.id for job in point.jobs]
    assert [(job.capacity_factor, job.null_route_frac) for job in whole.jobs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(isinstance(job.capacity_factor, float) for job in whole.jobs)


@pytest.mark.parametrize(
    ("kind", "fields", "measure", "expected"),
    [
        ("moe_block", "hidden = 64\nmlp_dim = 64\n", "", (5, 2)),
        ("topk", "", "", (100, 10)),
        ("moe_layer", "hidden = 64\n", "", (100, 10)),
        ("pack", "hidden = 64\n", "[measure]\niters = 7\n", (7, 10)),
    ],
)
def test_expand_measures_a_kind_as_often_as_it_needs(
    kind: str, fields: str, measure: str, expected: tuple[int, int]
) -> None:
    head = f'[experiment]\nid = "t"\ngoal = "g"\n[job]\nkind = "{kind}"\ntokens = 64\nexperts = 4\n{fields}'
    expansion = expand(f"{head}[axes]\ntopk = [1, 2]\n{measure}", "t.toml")
    assert (expansion.measure.iters, expansion.measure.warmup) == expected


def test_expand_of_a_field_that_cannot_matter_folds_and_says_why() -> None:
    expansion = expanded(
        'experts = 4\ntopk = 2\nbackend = "blocked"\n'
        '[axes]\nimpl = ["baseline", "fused_w13"]\nw13_param = ["stored", "concat"]\nseed = [0, 1]\n'
        '[baseline]\nimpl = "baseline"\n'
    )
    assert [cell.folded_into for cell in expansion.cells] == [None, None, 0, 1, None, None, None, None]
    assert expansion.notes == ("8 cells are 6 jobs: w13_param cannot matter for impl = baseline",)
    # a folded reference is measured in every group that needs it
    assert [[job.w13_param for job in group.jobs] for group in expansion.groups] == [
        ["stored", "stored"],
        ["stored", "stored"],
        ["stored", "concat"],
        ["stored", "concat"],
    ]
    assert all(group.jobs[0].impl == "baseline" for group in expansion.groups)


def test_expand_of_one_job_with_two_references_measures_it_with_each() -> None:
    expansion = expanded(
        'experts = 4\ntopk = 2\nbackend = "blocked"\n'
        '[axes]\nimpl = ["baseline", "fused_w13"]\nw13_param = ["stored", "concat"]\n'
        '[baseline]\nimpl = "fused_w13"\n[measure]\ninterleave = ["impl", "w13_param"]\n'
    )
    assert names(expansion) == [["fused_w13 stored", "baseline stored"], ["fused_w13 concat", "baseline stored"]]
    assert [group.label for group in expansion.groups] == ["all", "all #2"]
    assert [cell.group for cell in expansion.cells] == [0, 1, 0, 1]


def test_expand_of_equal_groups_measures_them_once() -> None:
    expansion = expanded(
        'experts = 4\ntopk = 2\nimpl = "baseline"\n'
        '[axes]\nbackend = ["blocked", "ragged_dot"]\nw13_param = ["stored", "concat"]\n'
        '[baseline]\nbackend = "ragged_dot"\n'
    )
    assert names(expansion) == [["ragged_dot", "blocked"]]
    assert [cell.group for cell in expansion.cells] == [0, 0, 0, 0]


def test_expand_of_a_refused_cell_keeps_it_with_its_reason() -> None:
    expansion = expanded('backend = "blocked"\n[axes]\nexperts = [1, 8]\ntopk = [1, 2]\n')
    refused = expansion.cells[1]
    assert (refused.job, refused.group) == (None, None)
    assert refused.why == "topk = 2 is more than experts = 1: a token goes to an expert at most once"
    assert expansion.notes == (f"1 cell without a job: {refused.why}",)


def test_expand_of_an_exclude_names_its_why_and_spares_what_agrees_in_part_only() -> None:
    expansion = expanded(
        BUNDLES + '[[exclude]]\nshape = "L"\nimpl = ["fused_w13"]\nwhy = "too slow"\n'
        '[[exclude]]\ndtype = "float32"\nimpl = "fused_w13"\nwhy = "no kernel"\n'
    )
    assert [cell.why for cell in expansion.cells] == [None, "excluded: too slow", None, "excluded: no kernel"]


def test_expand_of_an_include_appends_it_even_where_an_exclude_names_it() -> None:
    expansion = expanded(
        'topk = 2\n[axes]\nbackend = ["ragged_dot", "blocked"]\nexperts = [4, 8]\n[baseline]\nbackend = "ragged_dot"\n'
        '[[exclude]]\nexperts = 8\nwhy = "for now"\n'
        '[[include]]\nexperts = [8, 16]\nbackend = ["ragged_dot", "blocked"]\n'
        '[[include]]\nexperts = 4\nbackend = "blocked"\nw13_param = "concat"\nimpl = "fused_w13"\n'
        '[[include]]\nexperts = 4\nbackend = "ragged_dot"\nw13_param = "concat"\nimpl = "fused_w13"\n'
    )
    assert [cell.why is None for cell in expansion.cells] == [True, False, True, False] + [True] * 6
    assert [group.label for group in expansion.groups] == [
        "experts=4",
        "experts=8",
        "experts=16",
        "experts=4 w13_param=concat impl=fused_w13",
    ]
    assert [len(group.jobs) for group in expansion.groups] == [2, 2, 2, 2]


def test_expand_of_an_include_that_agrees_with_a_group_joins_it() -> None:
    expansion = expanded(
        'topk = 2\nbackend = "blocked"\n[axes]\nexperts = [4, 8]\nseed = [0, 1]\n[baseline]\nseed = 0\n'
        "[[include]]\nexperts = 8\nseed = [2, 1]\n"
    )
    assert [[job.seed for job in group.jobs] for group in expansion.groups] == [[0, 1], [0, 1, 2]]
    assert [cell.group for cell in expansion.cells] == [0, 0, 1, 1, 1, 1]
    assert expansion.cells[5].folded_into == 3
    assert expansion.notes == ("6 cells are 5 jobs: an include repeats a cell",)


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ("{ from = 0.0, to = 0.9, step = 0.1 }", [f"0.{digit}" for digit in range(10)]),
        ("{ from = 0, to = 3, step = 1 }", ["0", "1", "2", "3"]),
        ("{ from = 0.5, to = 0.5, step = 0.1 }", ["0.5"]),
        ("{ from = 1, to = 2, step = 0.25 }", ["1.0", "1.25", "1.5", "1.75", "2.0"]),
        ("[0.10, 2.50]", ["0.1", "2.5"]),
    ],
)
def test_expand_of_a_decimal_range_is_inclusive_and_prints_as_people_write(values: str, printed: list[str]) -> None:
    text = f'[experiment]\nid = "t"\ngoal = "g"\n[job]\nkind = "selftest"\n[axes]\nsleep_s = {values}\n'
    expansion = expand(text, "t.toml")
    assert [cell.coordinates["sleep_s"] for cell in expansion.cells] == printed
    assert [job.sleep_s for job in expansion.jobs] == [float(each) for each in printed]


@given(first=st.integers(-50, 50), steps=st.integers(0, 30), step=st.integers(1, 40), digits=st.integers(0, 4))
def test_expand_of_any_range_has_its_ends_and_equal_steps(first: int, steps: int, step: int, digits: int) -> None:
    written = [f"{number / 10**digits:.{digits}f}" for number in (first, first + steps * step, step)]
    table = {
        key: Decimal(word) if digits else int(word) for key, word in zip(("from", "to", "step"), written, strict=True)
    }
    expected = [(first + index * step) / 10**digits for index in range(steps + 1)]
    values = several(table, (), Places("t.toml", ""))
    assert list(values) == expected
    assert all(isinstance(value, int) == (digits == 0) for value in values)


def test_expand_of_a_group_beyond_a_visit_gives_each_part_its_reference() -> None:
    expansion = expanded(
        'experts = 4\ntopk = 2\nbackend = "blocked"\n[axes]\nseed = { from = 0, to = 39, step = 1 }\n'
        "[baseline]\nseed = 7\n"
    )
    assert [len(group.jobs) for group in expansion.groups] == [16, 16, 10]
    assert [group.label for group in expansion.groups] == ["all", "all #2", "all #3"]
    assert all(group.jobs[0].seed == 7 and set(group.reference_of) == {0} for group in expansion.groups)
    assert sorted(cell.group for cell in expansion.cells) == [0] * 16 + [1] * 15 + [2] * 9
    assert expansion.notes[0].startswith("group all has 40 arms, more than the 16 of a visit")


def test_expand_of_comparisons_that_do_not_fit_one_visit_keeps_each_in_one() -> None:
    expansion = expanded(
        'topk = 2\nbackend = "blocked"\n[axes]\nexperts = [4, 8]\nseed = { from = 0, to = 9, step = 1 }\n'
        '[baseline]\nseed = 0\n[measure]\ninterleave = ["seed", "experts"]\n'
    )
    assert [{job.experts for job in group.jobs} for group in expansion.groups] == [{4}, {8}]
    assert [len(group.jobs) for group in expansion.groups] == [10, 10]


AXES = {
    "backend": ["ragged_dot", "blocked"],
    "impl": ["baseline", "fused_w13"],
    "w13_param": ["stored", "concat"],
    "experts": [2, 4, 8],
    "topk": [1, 2, 4],
    "seed": list(range(40)),
    "size": ["S", "M"],
    "env.FLAG": ["", "1"],
}
DEFAULTS = {"backend": "blocked", "experts": 8, "topk": 2}


@st.composite
def matrices(draw: st.DrawFn) -> tuple[str, dict[str, list[Any]], dict[str, Any]]:
    chosen = draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=4, unique=True))
    axes = {name: draw(st.lists(st.sampled_from(AXES[name]), min_size=1, max_size=20, unique=True)) for name in chosen}
    if math.prod(map(len, axes.values())) > 150:
        axes = {name: values[:3] for name, values in axes.items()}
    interleaved = draw(st.lists(st.sampled_from(chosen), unique=True))
    compared = draw(st.lists(st.sampled_from(interleaved), min_size=1, unique=True)) if interleaved else []
    # a reference that is refused is an error of its own, tested by name: here, the baseline never decides that
    baseline = {name: draw(st.sampled_from(axes[name])) for name in compared if name not in ("topk", "experts")}
    lines = ['[experiment]\nid = "p"\ngoal = "g"\n[job]\nkind = "moe_block"\ntokens = 64\nmlp_dim = 64\n']
    lines += [f"{name} = {json.dumps(value)}\n" for name, value in DEFAULTS.items() if name not in axes]
    lines += ["hidden = 32\n"] if "size" not in axes else []
    lines += ["[axes]\n"] + [f"{name} = {json.dumps(values)}\n" for name, values in axes.items()]
    if "size" in axes:
        lines += ["[bundles.size]\n", 'S = { hidden = 64, init = "unit" }\n', "M = { hidden = 96 }\n"]
    if baseline:
        lines += ["[baseline]\n"] + [f"{name} = {json.dumps(value)}\n" for name, value in baseline.items()]
        lines += [f"[measure]\ninterleave = {json.dumps(interleaved)}\n"]
    return "".join(lines), axes, baseline


@settings(max_examples=200, deadline=None)
@given(matrices())
def test_expand_of_any_matrix_keeps_its_promises(drawn: tuple[str, dict[str, list[Any]], dict[str, Any]]) -> None:
    text, axes, baseline = drawn
    if all(topk > experts for topk in axes.get("topk", [2]) for experts in axes.get("experts", [8])):
        return
    expansion = expand(text, "p.toml")
    cells, groups = expansion.cells, expansion.groups
    by_coordinates = {tuple(sorted(cell.coordinates.items())): cell for cell in cells}

    assert len(cells) == len(by_coordinates) == math.prod(len(values) for values in axes.values())
    assert [cell.ordinal for cell in cells] == list(range(len(cells)))
    assert [group.ordinal for group in groups] == list(range(len(groups)))
    assert len({group.label for group in groups}) == len(groups)
    for cell in cells:
        assert (cell.job is None) != (cell.why is None)
        assert (cell.group is None) == (cell.job is None)
        if cell.job is None or cell.group is None:
            continue
        assert cell.job == cell.job.canonicalised()
        first = cells[cell.ordinal if cell.folded_into is None else cell.folded_into]
        assert first.job == cell.job
        assert first.folded_into is None
        # the reference of a cell is the cell at the baseline's values and its own elsewhere, in the same visit
        at = cell.coordinates | {name: str(value) for name, value in baseline.items()}
        reference = by_coordinates[tuple(sorted(at.items()))]
        assert cell.reference == (bool(baseline) and at == cell.coordinates)
        group = groups[cell.group]
        slot = group.jobs.index(cell.job)
        assert group.jobs[group.reference_of[slot]] == reference.job
    for group in groups:
        assert len(group.jobs) == len({job.id for job in group.jobs}) == len(group.reference_of) <= MAX_ARMS
        assert group.reference_of[0] == 0
        for slot, reference_slot in enumerate(group.reference_of):
            assert reference_slot <= slot
            assert group.reference_of[reference_slot] == reference_slot
    assert {job.id for group in groups for job in group.jobs} == {job.id for job in expansion.jobs}
    assert len({job.id for job in expansion.jobs}) == len(expansion.jobs)


def test_expand_with_a_typed_axis_replaces_it_where_it_stood() -> None:
    expansion = expanded(BUNDLES, axes={"shape": "S", "impl": "fused_w13,baseline"})
    assert [cell.coordinates for cell in expansion.cells] == [
        {"shape": "S", "impl": "fused_w13"},
        {"shape": "S", "impl": "baseline"},
    ]


def test_expand_with_a_typed_axis_makes_a_fixed_field_vary() -> None:
    expansion = expanded(BUNDLES, axes={"topk": "{from=1,to=3,step=1}", "env.F": '["a,b", "c"]'})
    assert {job.topk for job in expansion.jobs} == {1, 2, 3}
    assert {job.env["F"] for job in expansion.jobs} == {"a,b", "c"}
    assert len(expansion.cells) == 4 * 3 * 2


def test_expand_with_typed_texts_keeps_numbers_and_equal_signs_in_them() -> None:
    expansion = expanded(BUNDLES, axes={"shape": "S", "env.F": "1,b=2,c"}, exclude=("env.F=1,b=2,impl=baseline",))
    assert [cell.coordinates["env.F"] for cell in expansion.cells if cell.why is None] == ["c", "1", "b=2", "c"]
    assert {job.env["F"] for job in expansion.jobs} == {"1", "b=2", "c"}


def test_expand_with_typed_excludes_and_settings_records_them_and_leaves_the_count_alone() -> None:
    text = HEAD.replace("[job]", "jobs = 4\n[job]") + BUNDLES
    overrides = Overrides(exclude=("shape=L,impl=baseline", "shape=S"), sets=("measure.iters=9", "job.topk=1"))
    expansion = expand(text, "test.toml", overrides)
    assert [cell.why for cell in expansion.cells] == [
        "excluded: -x shape=L,impl=baseline",
        None,
        "excluded: -x shape=S",
        "excluded: -x shape=S",
    ]
    assert (expansion.measure.iters, expansion.jobs[0].topk) == (9, 1)
    assert expansion.overrides == overrides
    assert expansion.notes[-1].startswith("jobs = 4 is not checked")


def test_expansion_survives_being_stored_as_json() -> None:
    expansion = read_matrix(FIRST)
    assert Expansion.model_validate_json(expansion.model_dump_json()) == expansion


def test_label_names_what_varies_words_first() -> None:
    block = {"kind": "moe_block", "tokens": 64, "hidden": 64, "mlp_dim": 64, "experts": 8, "topk": 2}
    jobs = [
        parse_job(block | {"backend": "blocked", "seed": 0}),
        parse_job(block | {"backend": "ragged_dot", "experts": 16, "seed": 1, "env": {"A": "x"}}),
    ]
    assert labels(jobs) == ["blocked e8 seed=0 no A", "ragged_dot e16 seed=1 A='x'"]
    assert labels(jobs[:1]) == ["moe_block"]


def test_lines_of_finds_keys_behind_strings_comments_arrays_and_tables() -> None:
    text = "\n".join(
        [
            "# [not.a] = table",
            'a = """',
            "b = 1 # [x]",
            '"""',
            "c = [ # ]",
            '  "[", 1,',
            "]",
            "[t.u] # c",
            "d.e = '#'",
            '"q r" = { s = 1 }',
            "[[v]]",
            "w = 1",
            "[[v]]",
            "w = 2",
            "[v.env]",
            "X = ''",
        ]
    )
    assert lines_of(text) == {
        ("a",): 2,
        ("c",): 5,
        ("t",): 8,
        ("t", "u"): 8,
        ("t", "u", "d"): 9,
        ("t", "u", "d", "e"): 9,
        ("t", "u", "q r"): 10,
        ("v",): 11,
        ("v", 0): 11,
        ("v", 0, "w"): 12,
        ("v", 1): 13,
        ("v", 1, "w"): 14,
        ("v", 1, "env"): 15,
        ("v", 1, "env", "X"): 16,
    }


# -- code

MAIN, OLDER = "a" * 40, "b" * 40
CODE = """
experts = 4
topk = 2
[axes]
code = ["main", "."]
seed = [0, 1]
[baseline]
code = "main"
"""


def coded(body: str, revisions: dict[str, str], overrides: Overrides = NO_OVERRIDES) -> Expansion:
    assert revisions_of(HEAD + body, "test.toml", overrides) == tuple(revisions)
    return expand(HEAD + body, "test.toml", overrides, revisions)


def test_expand_of_code_prints_names_as_written_and_gives_jobs_commits() -> None:
    expansion = coded(CODE, {"main": MAIN})
    assert [cell.coordinates["code"] for cell in expansion.cells] == ["main", "main", ".", "."]
    assert [job.code for job in expansion.jobs] == [MAIN, MAIN, "", ""]
    assert [group.reference_of for group in expansion.groups] == [(0, 0), (0, 0)]
    assert [[job.code for job in group.jobs] for group in expansion.groups] == [[MAIN, ""], [MAIN, ""]]
    assert expansion.revisions == {"main": MAIN}
    assert expansion.notes == ('code = "main" is commit aaaaaaaaaaaa',)
    assert labels(expansion.jobs, {MAIN: "main"}) == [
        "seed=0 code=main",
        "seed=1 code=main",
        "seed=0 code=.",
        "seed=1 code=.",
    ]


def test_expand_after_a_branch_moved_names_other_jobs_and_the_same_for_the_working_tree() -> None:
    before, after = coded(CODE, {"main": MAIN}), coded(CODE, {"main": OLDER})
    assert [one.id == other.id for one, other in zip(before.jobs, after.jobs, strict=True)] == [False] * 2 + [True] * 2
    assert [cell.coordinates for cell in before.cells] == [cell.coordinates for cell in after.cells]


def test_expand_of_the_working_tree_is_the_job_that_names_no_code() -> None:
    assert expanded('experts = 4\ntopk = 2\ncode = "."\n').jobs == expanded("experts = 4\ntopk = 2\n").jobs


def test_expand_of_code_that_is_fixed_or_a_bundle_s_or_an_include_s_gives_commits() -> None:
    body = """
    experts = 4
    topk = 2
    [axes]
    build = ["old", "new"]
    [[include]]
    code = ["v1"]
    seed = [5]
    [bundles.build]
    old = { code = "main", seed = 1 }
    new = { code = "." , seed = 2 }
    """
    expansion = coded(body, {"v1": OLDER, "main": MAIN})
    assert [job.code for job in expansion.jobs] == [MAIN, "", OLDER]
    fixed = coded('experts = 4\ntopk = 2\ncode = "main"\nenv.X = "1"\n', {"main": MAIN})
    assert [(job.code, job.env) for job in fixed.jobs] == [(MAIN, {"X": "1"})]


def test_expand_of_two_names_of_one_commit_folds_them_and_says_so() -> None:
    body = CODE.replace('"."', '"v1"')
    expansion = coded(body, {"main": MAIN, "v1": MAIN})
    assert [cell.folded_into for cell in expansion.cells] == [None, None, 0, 1]
    assert 'code "main" and "v1" are the same commit' in expansion.notes[-1]


def test_expand_of_a_commit_typed_on_the_command_line_is_a_text_even_of_digits_only() -> None:
    expansion = coded(CODE, {"1234567": MAIN}, Overrides(axes={"code": "1234567,."}, sets=("baseline.code=1234567",)))
    assert [cell.coordinates["code"] for cell in expansion.cells] == ["1234567"] * 2 + ["."] * 2


def test_expand_of_a_name_that_nobody_resolved_is_refused_with_its_place() -> None:
    with pytest.raises(MatrixError, match=r'test\.toml:14: axes\.code: "main" is not known as a revision; run this'):
        expand(HEAD + CODE, "test.toml")


def test_expand_of_code_that_is_no_text_is_refused() -> None:
    with pytest.raises(MatrixError, match=r"axes\.code: 5 is not a text"):
        expanded("experts = 4\ntopk = 2\n[axes]\ncode = [5]\n")
