"""Bad matrices: each is refused with its place, its key, its value and the way out."""

from pathlib import Path
from typing import Any

import pytest

from core.errors import HillclimbError
from core.matrix import MatrixError, Overrides, expand, read_matrix

GOOD = """\
[experiment]
id = "good"
goal = "Which is faster?"
jobs = 6

[job]
kind = "moe_block"
tokens = 1024
hidden = 128
mlp_dim = 256
topk = 2

[axes]
backend = ["ragged_dot", "blocked"]
experts = [4, 8, 16]

[baseline]
backend = "ragged_dot"

[measure]
iters = 5
interleave = ["backend", "experts"]
"""
EXPERTS = "experts = [4, 8, 16]"
INTERLEAVE = 'interleave = ["backend", "experts"]'
BASELINE = 'backend = "ragged_dot"'
BUNDLE = '\n[bundles.shape]\nS = { experts = 4 }\nL = { experts = "x" }\n'

# name -> (what is replaced in GOOD, by what; "" appends), words of the error
EDITS: dict[str, tuple[str, str, list[str]]] = {
    "unknown section": ("[axes]", "[axis]", ["m.toml:13: axis", "did you mean axes?"]),
    "unknown job field": ("hidden", "hiden", ["m.toml:9: job.hiden: unknown key hiden", "did you mean hidden?"]),
    "unknown axis": (EXPERTS, "exprts = [4]", ["m.toml:15: axes.exprts", "did you mean experts?"]),
    "unknown experiment key": ("goal", "gaol", ["m.toml:3: experiment.gaol", "did you mean goal?"]),
    "unknown measure key": ("iters", "itres", ["m.toml:21: measure.itres", "did you mean iters?"]),
    "missing section": ("[job]", "[axes.job]", ["m.toml: there is no [job]", "add a line [job]"]),
    "missing goal": ('goal = "Which is faster?"', "", ["m.toml:1: experiment: goal is missing", "write goal ="]),
    "missing field": ("hidden = 128", "", ["m.toml:6: job: hidden is missing", "make it an axis"]),
    "missing kind": ('kind = "moe_block"', "", ["m.toml:6: job: kind is missing", 'write kind = "moe_block"']),
    "wrong kind": ("moe_block", "moe_blok", ['m.toml:7: job.kind: "moe_blok"', "did you mean moe_block?"]),
    "kind as an axis": (EXPERTS, 'kind = ["moe_block"]', ["m.toml:15: axes.kind", "fix it in [job]"]),
    "text for a number": (
        "topk = 2",
        'topk = "two"',
        ['m.toml:11: job.topk: "two" is not a whole number', "write it without quotes"],
    ),
    "text in an axis": (EXPERTS, 'experts = [4, "8"]', ['m.toml:15: axes.experts: "8" is not a whole number']),
    "fraction for a number": ("topk = 2", "topk = 2.0", ["m.toml:11: job.topk: 2.0 is not a whole number"]),
    "boolean for a number": ("topk = 2", "topk = true", ["m.toml:11: job.topk: true is not a whole number"]),
    "number below its range": ("topk = 2", "topk = 0", ["job.topk: 0 is too small", "write at least 1"]),
    "number above its range": ("tokens = 1024", f"tokens = {10**30}", ["m.toml:8", "write at most 2147483647"]),
    "number too long": ("topk = 2", f"topk = {'9' * 5000}", ["m.toml: not TOML", "too long to be read"]),
    "exponent too large": ("topk = 2", "topk = 1e99999999999999999999", ["not TOML", "too long to be read"]),
    "wrong choice": ('"blocked"', '"bloked"', ['m.toml:14: axes.backend: "bloked"', "did you mean blocked?"]),
    "number for a choice": ('"blocked"', "3", ["axes.backend: 3 is none of gmm, ragged_dot, blocked,", "in quotes"]),
    "list in job": ("topk = 2", "topk = [2, 4]", ["m.toml:11: job.topk: [2, 4] is a list", "a key of [axes]"]),
    "date": ("topk = 2", "topk = 2026-01-01", ["m.toml:11: job.topk", "write a number, text or boolean"]),
    "empty axis": (EXPERTS, "experts = []", ["m.toml:15: axes.experts: the list is empty", "give it a value"]),
    "axis without brackets": (EXPERTS, "experts = 4", ["m.toml:15: axes.experts: 4 is not a list", "[2, 4]"]),
    "value twice": (EXPERTS, "experts = [4, 8, 4]", ["axes.experts: 4 is there twice", "remove one"]),
    "axis fixed in job": ("topk = 2", "topk = 2\nexperts = 4", ["[job] fixes experts too", "remove experts"]),
    "nan": ("iters = 5", "noise_band = nan", ["m.toml:21: measure.noise_band: NaN", "write a finite number"]),
    "infinity in an axis": (EXPERTS, "experts = [4, inf]", ["m.toml:15: axes.experts: Infinity"]),
    "beyond a float": ("iters = 5", "noise_band = 1e999", ["measure.noise_band: 1E+999", "between 1e-300 and 1e300"]),
    "range missing its end": (EXPERTS, "experts = { from = 4, to = 17, step = 4 }", ["write to = 16 or to = 20"]),
    "range downwards": (EXPERTS, "experts = { from = 4, to = 2, step = 1 }", ["m.toml:15", "from <= to"]),
    "range without step": (EXPERTS, "experts = { from = 4, to = 8 }", ["the range has no step"]),
    "range with a wrong key": (EXPERTS, "experts = { from = 4, upto = 8, step = 1 }", ["experts.upto", "mean to?"]),
    "range of texts": (EXPERTS, 'experts = { from = "4", to = 8, step = 1 }', ['"4" is not a number']),
    "huge range": (EXPERTS, "experts = { from = 1, to = 9999999999, step = 1 }", ["more than 100000 values"]),
    "huge product": (EXPERTS, "experts = { from = 1, to = 90000, step = 1 }", ["180000 cells are more than 100000"]),
    "no name": ('"good"', '"Not Good"', ['m.toml:2: experiment.id: "Not Good"', "as in null-routing"]),
    "empty goal": ('"Which is faster?"', '""', ["m.toml:3: experiment.goal: it is empty"]),
    "wrong count": ("jobs = 6", "jobs = 7", ["m.toml:4: experiment.jobs: jobs = 7", "6 distinct", "write jobs = 6"]),
    "all refused": ("topk = 2", "topk = 20", ["no cell has a job", "topk = 20 is more than experts = 4", "2 of 6"]),
    "baseline is no axis": (BASELINE, 'dtype = "float32"', ["m.toml:18: baseline.dtype", "backend, experts"]),
    "baseline misspelt": (BASELINE, 'backnd = "ragged_dot"', ["baseline.backnd", "did you mean backend?"]),
    "baseline value": (BASELINE, 'backend = "ragged"', ['baseline.backend: "ragged"', "did you mean ragged_dot?"]),
    "baseline not interleaved": (INTERLEAVE, 'interleave = ["experts"]', ["m.toml:18", "add backend to measure"]),
    "interleave without baseline": (f"[baseline]\n{BASELINE}", "", ["measure.interleave", "add [baseline] with"]),
    "interleave misspelt": (INTERLEAVE, 'interleave = ["backend", "expert"]', ['"expert"', "did you mean experts?"]),
    "interleave no list": (INTERLEAVE, 'interleave = "backend"', ["is not a list", '["backend"]']),
    "interleave twice": (INTERLEAVE, 'interleave = ["backend", "backend"]', ['"backend" is there twice']),
    "exclude of nothing": ("", '[[exclude]]\nexperts = 32\nwhy = "w"\n', ["m.toml:23: exclude.1", "4, 8, 16"]),
    "exclude of a value too many": ("", '[[exclude]]\nexperts = [4, 5]\nwhy = "w"\n', ["experts = 5 matches no cell"]),
    "exclude without why": ("", "[[exclude]]\nexperts = 4\n", ["m.toml:23: exclude.1: why is missing", 'why = "…"']),
    "exclude without key": ("", '[[exclude]]\nwhy = "w"\n', ["exclude.1: it names no field"]),
    "exclude in single brackets": ("", '[exclude]\nwhy = "w"\n', ["write [[exclude]]"]),
    "exclude of a reference": (
        "",
        '[[exclude]]\nexperts = 4\nbackend = "ragged_dot"\nwhy = "slow"\n',
        ["m.toml:17: baseline: groups", "all (the reference of backend=blocked experts=4 has no job: excluded: slow)"],
    ),
    "reference refused": (
        '[axes]\nbackend = ["ragged_dot", "blocked"]\nexperts = [4, 8, 16]\n\n[baseline]\nbackend = "ragged_dot"',
        'quant_mode = "int8_routed"\n[axes]\nbackend = ["gmm", "blocked"]\nexperts = [4]\n[baseline]\nbackend = "gmm"',
        [
            "baseline: groups with cells that have no reference: all (the reference of backend=blocked experts=4 has "
            "no job: backend = gmm: megablox has no int8; the logbooks silently switched to ragged_dot)",
            "; give them their reference, exclude these cells too, or choose another baseline",
        ],
    ),
    "include with an open axis": ("", "[[include]]\nexperts = 32\n", ["m.toml:23: include.1", "give backend a value"]),
    "include without reference": (
        "",
        '[[include]]\nexperts = 32\nbackend = "blocked"\n',
        ["baseline: groups", "there is no reference of experts=32 backend=blocked"],
    ),
    "include of another env": (
        "",
        '[[include]]\nexperts = 8\nbackend = "blocked"\nenv.A = "1"\n',
        ["env.A=1 (there is no reference"],
    ),
    "include with a wrong value": (
        "",
        '[[include]]\nexperts = "x"\nbackend = "blocked"\n',
        ['m.toml:24: include.1.experts: "x" is not a whole number'],
    ),
    "include of a bundle and its field": (
        "",
        '[bundles.s]\nS = { experts = 8 }\n[[include]]\ns = "S"\nexperts = 4\nbackend = "blocked"\n',
        ["m.toml:27: include.1.experts: s and experts both set experts"],
    ),
    "bundle and axis": (
        EXPERTS,
        EXPERTS + '\nshape = ["S"]' + BUNDLE.replace('"x"', "8"),
        ["m.toml:16: axes.shape", "experts and shape both set experts"],
    ),
    "bundle label": (EXPERTS, 'shape = ["M"]' + BUNDLE, ['m.toml:15: axes.shape: "M" is no label', "S, L"]),
    "bundle unused": ("", BUNDLE, ["m.toml:24: bundles.shape", "add shape to [axes]"]),
    "bundle named as a field": ("", "[bundles.topk]\nS = { experts = 4 }\n", ["bundles.topk", "a name of its own"]),
    "bundle field": ("", "[bundles.s]\nS = { exprts = 4 }\n", ["m.toml:24: bundles.s.S.exprts", "mean experts?"]),
    "bundle without fields": ("", "[bundles.s]\nS = {}\n", ["m.toml:24: bundles.s.S: it sets no field"]),
    "bundle no table": ("", "[bundles]\ns = 3\n", ["m.toml:24: bundles.s: 3 is not a table"]),
    "tiles no table": ("topk = 2", "topk = 2\ntiles = [1, 2, 3]", ["m.toml:12: job.tiles:", "write tiles.forward = …"]),
    "tiles of no product": (
        "topk = 2",
        "topk = 2\ntiles.forwrd = [1, 2, 3]",
        ["m.toml:12: job.tiles.forwrd: unknown key tiles.forwrd", "did you mean tiles.forward?"],
    ),
    "tile no list": (
        "topk = 2",
        "topk = 2\ntiles.forward = 512",
        ["m.toml:12: job.tiles.forward: 512 is not a list", "as in [512, 1024, 1024]"],
    ),
    "tile too short": (
        "topk = 2",
        "topk = 2\ntiles = { drhs = [512, 1024] }",
        ["m.toml:12: job.tiles.drhs: [512, 1024] is a list of 2; write a list of 3"],
    ),
    "tile of a text": (
        EXPERTS,
        EXPERTS + '\ntiles.dlhs = [[512, "x", 512]]',
        ['m.toml:16: axes.tiles.dlhs: "x" is not a whole number; write it without quotes or point, as in 8'],
    ),
    "tile below its range": (
        EXPERTS,
        EXPERTS + "\ntiles.dlhs = [[512, 0, 512]]",
        ["m.toml:16: axes.tiles.dlhs: 0 is too small; write at least 1"],
    ),
    "tile axis without brackets": (
        EXPERTS,
        EXPERTS + "\ntiles.dlhs = [512, 512, 512]",
        ["m.toml:16: axes.tiles.dlhs: 512 is not a list", "as in [512, 1024, 1024]"],
    ),
    "tile of a bundle": (
        EXPERTS,
        EXPERTS + '\ntiling = ["S"]\n[bundles.tiling]\nS = { tiles = { forward = [1] } }',
        ["m.toml:18: bundles.tiling.S.tiles.forward: [1] is a list of 1", "write a list of 3"],
    ),
    "bundle named as a table": ("", "[bundles.tiles]\nS = { experts = 4 }\n", ["bundles.tiles", "of its own"]),
    "number that is no choice": (
        "topk = 2",
        "topk = 2\ndevices = 2",
        ["m.toml:12: job.devices: 2 is none of all, 1; known here: all, 1"],
    ),
    "text for a choice of numbers": (
        "topk = 2",
        'topk = 2\ndevices = "1"',
        ['m.toml:12: job.devices: "1" is none of all, 1; write it without quotes'],
    ),
    "env no table": ("topk = 2", 'topk = 2\nenv = "x"', ["m.toml:12: job.env", "write env.NAME"]),
    "env number": (EXPERTS, EXPERTS + "\nenv.A = [1]", ['axes.env.A: 1 is not a text', 'env.A = "1"']),
    "env reserved": ("topk = 2", 'topk = 2\nenv.PATH = "x"', ["m.toml:12: job.env.PATH: PATH is set by the host"]),
    "env name": ("topk = 2", 'topk = 2\nenv."A B" = "x"', ["m.toml:12: job.env.A B: unknown key"]),
    "syntax": ("[axes]", "[axes", ["m.toml:13: not TOML"]),
    "key twice": ("topk = 2", "topk = 2\ntopk = 3", ["m.toml:12: not TOML"]),
}  # fmt: skip


def refusal(text: str, **overrides: Any) -> str:
    with pytest.raises(MatrixError) as caught:
        expand(text, "m.toml", Overrides(**overrides))
    return str(caught.value)


def test_good_matrix_is_accepted() -> None:
    assert len(expand(GOOD, "m.toml").jobs) == 6


@pytest.mark.parametrize("name", EDITS)
def test_expand_of_a_bad_matrix_says_place_and_way_out(name: str) -> None:
    old, new, words = EDITS[name]
    assert old in GOOD
    message = refusal(GOOD.replace(old, new, 1) if old else GOOD + new)
    assert [word for word in words if word not in message] == [], message
    assert message.startswith("m.toml:")
    assert "; " in message


def test_expand_of_a_bundles_bad_value_points_into_the_bundle() -> None:
    text = GOOD.replace(EXPERTS, 'shape = ["S", "L"]' + BUNDLE).replace(INTERLEAVE, "")
    assert 'm.toml:18: bundles.shape.L.experts: "x" is not a whole number' in refusal(text)


def test_expand_of_a_deeply_nested_file_is_refused() -> None:
    assert "nested too deeply" in refusal("a = " + "[" * 100_000)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"axes": {"expert": "4"}}, ["-a expert=4: unknown key", "did you mean experts?"]),
        ({"axes": {"experts": "4,x"}}, ['-a experts=4,x: "x" is not a whole number']),
        ({"axes": {"experts": "4,4"}}, ["-a experts=4,4: 4 is there twice"]),
        ({"axes": {"experts": "nan"}}, ["-a experts=nan: NaN"]),
        ({"axes": {"experts": "[4"}}, ["[4: not a list or range"]),
        ({"axes": {"backend": "blocked"}}, ['m.toml:18: baseline.backend: "ragged_dot" is no value', "blocked"]),
        ({"exclude": ("experts=5",)}, ["-x experts=5: experts = 5 matches no cell", "4, 8, 16"]),
        ({"exclude": ("expert=5",)}, ["-x expert=5: unknown key", "did you mean experts?"]),
        ({"exclude": ("experts",)}, ["-x experts: not KEY=VALUE", "-x topk=2"]),
        ({"sets": ("measure.itres=5",)}, ["--set measure.itres=5: unknown key", "did you mean iters?"]),
        ({"sets": ("measure.iters=x",)}, ['--set measure.iters=x: "x" is not a whole number']),
        ({"sets": ("measure.noise_band=nan",)}, ["--set measure.noise_band=nan: NaN"]),
        ({"sets": ("job.topk=two",)}, ['--set job.topk=two: "two" is not a whole number']),
        ({"sets": ("axes.topk=2",)}, ["--set axes.topk=2", "use -a KEY=VALUES"]),
        ({"sets": ("mesure.iters=2",)}, ["--set mesure.iters=2", "did you mean measure?"]),
        ({"sets": ("iters=2",)}, ["--set iters=2: not SECTION.KEY=VALUE"]),
    ],
)
def test_expand_of_bad_overrides_quotes_what_was_typed(overrides: dict[str, Any], words: list[str]) -> None:
    message = refusal(GOOD, **overrides)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.toml", None, ["no such file", "check the name"]),
        ("latin.toml", "goal = 'é'".encode("latin-1"), ["byte 8 is not UTF-8", "save the file as UTF-8"]),
        ("huge.toml", b"#" * (1 << 20) + b"#", ["larger than 1048576 bytes"]),
        ("empty.toml", b"", ["there is no [experiment]"]),
        (".", None, ["a directory", "name the .toml file"]),
        ("a\0b", None, ["cannot be read"]),
        ("/dev/zero", None, ["not a regular file"]),
    ],
)
def test_read_matrix_of_no_matrix_names_the_file(
    tmp_path: Path, name: str, content: bytes | None, words: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MatrixError) as caught:
        read_matrix(path)
    assert str(caught.value).startswith(str(path))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_read_matrix_accepts_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert len(read_matrix(tmp_path / "bom.toml").cells) == 6


def test_matrix_error_is_one_a_person_is_shown_as_invalid_input() -> None:
    assert issubclass(MatrixError, HillclimbError)
    assert MatrixError.exit_code == 2
