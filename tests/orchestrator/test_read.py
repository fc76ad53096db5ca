"""The reading commands, on ledgers made by the writer."""

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from core import events as said
from core.accounting import Rates
from core.errors import HillclimbError
from core.failures import MEANING, Kind
from core.job import Job, MoeBlockJob
from core.ledger.errors import LedgerError, UnknownExperiment
from core.ledger.queries import Ambiguous, NothingMatched
from core.ledger.writer import Ledger
from core.lifecycle import HostState
from core.matrix import Overrides, expand
from core.visit import Target
from orchestrator.cli import read
from orchestrator.report.pivot import BadLayout
from orchestrator.report.rates import RATES
from orchestrator.report.sql import BadQuery

MATRIX = """
[experiment]
id = "first"
goal = "Does blocked beat ragged_dot?"
[job]
kind = "moe_block"
tokens = 1024
hidden = 128
mlp_dim = 256
topk = 2
dtype = "float32"
[axes]
backend = ["ragged_dot", "blocked"]
experts = [4, 8, 16]
[[exclude]]
backend = "blocked"
experts = 8
why = "known to be broken"
[baseline]
backend = "ragged_dot"
[measure]
blocks = 3
iters = 3
interleave = ["backend", "experts"]
"""
FACTS = {"platform": "cpu", "device_kind": "cpu", "device_count": "4", "jax": "0.10.2", "code": "c0de"}


class End(NamedTuple):
    """How a job's runs end: these times, or a failure."""

    wall_ns: tuple[int, ...] = ()
    kind: Kind | None = None


def by_experts(job: Job, ordinal: int) -> End:
    """ragged_dot grows with the experts, blocked does not; a little scatter between blocks."""
    base = 1_000_000 * (job.experts if job.backend == "ragged_dot" else 2)
    return End((base, base + 1000 * ordinal, base + 5000))


# Name, value and devices of each.
Metrics = Callable[[Job], Iterable[tuple[str, float, int]]]


def no_metrics(_: Job) -> Iterable[tuple[str, float, int]]:
    return ()


def measure(
    ledger: Ledger,
    end: Callable[[Job, int], End] = by_experts,
    visits: int = 1000,
    metrics: Metrics = no_metrics,
) -> None:
    """Leases and finishes up to so many visits on one host. `metrics`: further ones of each run."""
    ledger.see_host("h1", "m1", "cpu", 4)
    spool = ledger.spool_of("h1") or "spool"
    ledger.new_spool("h1", spool)
    for _ in range(visits):
        blocks = ledger.snapshot().blocks
        if not blocks:
            return
        visit = ledger.lease(blocks[0].id, "h1", [arm.slot for arm in blocks[0].arms])
        lines = _lines(ledger, visit, lambda job, at=blocks[0].ordinal: end(job, at), metrics)
        first = ledger.acked(spool) + 1
        entries = [said.Entry(seq=first + i, at_ns=i, visit=visit, body=body) for i, body in enumerate(lines)]
        ledger.ingest(spool, "h1", entries)


def _lines(ledger: Ledger, visit: int, end: Callable[[Job], End], metrics: Metrics = no_metrics) -> Iterator[Any]:
    slots = ledger.visit(visit, Target(), "c0de").slots
    yield said.VisitBegan(sitting="sitting")
    yield said.RunnerBegan(process=1, pid=1, start_time=1, slots=tuple(s.slot for s in slots))
    yield said.Environment(process=1, facts=FACTS)
    for s in slots:
        done = end(s.job)
        yield said.PhaseBegan(slot=s.slot, phase="compile")
        yield said.Compiled(
            slot=s.slot, program=s.job.id[:8], inputs=f"i{s.slot}", lower_ns=1, compile_ns=2, cached=False
        )
        yield said.Metric(slot=s.slot, name="load_cv", value=0.25)
        yield said.Metric(slot=s.slot, name="error", value=1e-7, scope="y")
        yield said.Metric(slot=s.slot, name="error", value=2e-7, scope="dx")
        for name, value, devices in metrics(s.job):
            yield said.Metric(slot=s.slot, name=name, value=value, devices=devices)
        if done.kind is None:
            yield said.Samples(slot=s.slot, wall_ns=done.wall_ns)
            yield said.RunEnded(slot=s.slot, outcome="ok")
        else:
            yield said.RunEnded(slot=s.slot, outcome="failed", kind=done.kind, reason="|it\x1b[2J broke|")
    yield said.VisitEnded(state="finished")


def queue(ledger: Ledger, text: str = MATRIX) -> None:
    ledger.enqueue(expand(text, "first.toml", Overrides()), "c0de")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the matrix, measured."""
    path = tmp_path_factory.mktemp("ledger") / "measured.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        measure(ledger)
    return path


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    read.register(made)
    return made


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def run(app: typer.Typer) -> Command:
    """Runs a command; an error of ours is raised as it would reach `main`."""

    def run(*words: str, ledger: Path) -> Said:
        result = CliRunner().invoke(app, [*words, "--ledger", str(ledger)])
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


def as_json(run: Command, ledger: Path, *words: str) -> Any:
    return json.loads(run(*words, "-o", "json", ledger=ledger).out)


READS = [
    ("ls",),
    ("ls", "first"),
    ("table", "first"),
    ("table", "first", "--value", "ratio"),
    ("export", "first"),
    ("export", "first", "--samples"),
    ("sql", "SELECT id, outcome FROM run ORDER BY id"),
    ("show", "1.1"),
    ("status",),
    ("status", "first"),
    ("compare", "first"),
]


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_every_reader_every_output_parses_back_and_agrees(run: Command, measured: Path, words: tuple[str, ...]) -> None:
    document = as_json(run, measured, *words)
    sections = document if isinstance(document, dict) else {"": document}
    lines = [json.loads(line) for line in run(*words, "-o", "jsonl", ledger=measured).out.splitlines()]
    assert lines == [({"section": name} if name else {}) | row for name, rows in sections.items() for row in rows]

    first = next(iter(sections.values()))
    table = list(csv.DictReader(io.StringIO(run(*words, "-o", "csv", ledger=measured).out)))
    assert [_as_csv(row, list(table[0])) for row in first] == table

    markdown = run(*words, "-o", "md", ledger=measured).out
    body = [line for line in markdown.splitlines() if line.startswith("| ")]
    headers = sum(1 for line in markdown.splitlines() if line.startswith("| ---") or line.startswith("|  ---"))
    prose = [rows for rows in sections.values() if rows and set(rows[0]) <= {"conclusion"}]
    assert len(body) - 2 * headers == sum(map(len, sections.values())) - sum(map(len, prose))

    text = run(*words, "-o", "table", ledger=measured).out
    for row in first:
        assert all(v in text for v in row.values() if isinstance(v, str))


def _as_csv(row: dict[str, Any], keys: list[str]) -> dict[str, str]:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)

    return {key: cell(row.get(key)) for key in keys}


def test_ls_experiment_shows_state_blocks_and_median(run: Command, measured: Path) -> None:
    rows = {row["cell"]: row for row in as_json(run, measured, "ls", "first")}
    assert (rows["ragged_dot e16"]["state"], rows["ragged_dot e16"]["blocks"], rows["ragged_dot e16"]["wanted"]) == (
        "done",
        3,
        3,
    )
    # the block medians are 16.000, 16.001 and 16.002 ms
    assert rows["ragged_dot e16"]["time_ms"] == pytest.approx(16.001)
    skipped = rows["backend=blocked experts=8"]
    assert (skipped["state"], skipped["reason"], skipped["job"]) == ("skipped", "excluded: known to be broken", None)


def test_ls_counts_cells_by_state(run: Command, measured: Path) -> None:
    (row,) = as_json(run, measured, "ls")
    assert (row["experiment"], row["cells"], row["done"], row["skipped"]) == ("first", 6, 5, 1)


def test_table_cells_hold_the_value_or_the_reason(run: Command, measured: Path) -> None:
    rows = as_json(run, measured, "table", "first", "--rows", "experts", "--cols", "backend")
    assert [row["experts"] for row in rows] == ["4", "8", "16"]
    assert [row["backend=blocked time_ms"] for row in rows] == [pytest.approx(2.001), "skipped", pytest.approx(2.001)]
    ratios = as_json(run, measured, "table", "first", "--value", "ratio")
    assert [row["backend=blocked ratio"] for row in ratios] == [
        pytest.approx(2.0, rel=1e-3),
        "skipped",
        pytest.approx(8.0, rel=1e-3),
    ]


def test_table_rates_follow_from_the_cells_time(run: Command, measured: Path) -> None:
    (row,) = as_json(run, measured, "table", "first", "--rows", "backend", "--where", "experts=16", "--where",
                     "backend=ragged_dot", "--value", "tokens_per_s")  # fmt: skip
    assert row["tokens_per_s"] == pytest.approx(1024 / 16.001e-3)
    (row,) = as_json(run, measured, "table", "first", "--where", "experts=16", "--where", "backend=ragged_dot",
                     "--value", "mfu")  # fmt: skip
    assert row["mfu"] == "no mfu"


def test_table_metric_by_name_and_scope(run: Command, measured: Path) -> None:
    rows = as_json(run, measured, "table", "first", "--value", "load_cv")
    assert rows[0]["backend=ragged_dot load_cv"] == 0.25
    rows = as_json(run, measured, "table", "first", "--value", "error:dx")
    assert rows[0]["backend=ragged_dot error:dx"] == 2e-7


def test_rates_every_name_is_one_of_the_formulas() -> None:
    assert set(RATES) <= set(Rates.model_fields)


NULLS = """
[experiment]
id = "nulls"
goal = "Do nulls cost nothing?"
[job]
kind = "moe_block"
tokens = 1024
hidden = 128
mlp_dim = 256
experts = 8
topk = 2
parallel_mode = "ep"
tiles.forward = [128, 128, 128]
[axes]
null_route_frac = [0.0, 0.5]
devices = [1, "all"]
[baseline]
devices = 1
[measure]
blocks = 3
iters = 3
"""


def counting(job: Job) -> Iterator[tuple[str, float, int]]:
    """(name, value, devices) of a run's metrics; half of the rows of a job with nulls are real."""
    assert isinstance(job, MoeBlockJob)
    devices = 1 if job.devices == 1 else 4
    yield "devices", devices, devices
    if job.null_route_frac:
        yield "model_rows", 1024.0, devices
        yield "executed_rows", 1024.0, devices


def equal_times(_: Job, ordinal: int) -> End:
    return End((1_000_000 + ordinal,) * 3)


@pytest.fixture(scope="module")
def with_nulls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "nulls.db"
    with Ledger.open(path) as ledger:
        queue(ledger, NULLS)
        measure(ledger, equal_times, metrics=counting)
    return path


def test_rates_of_a_run_are_of_the_rows_and_devices_it_counted(run: Command, with_nulls: Path) -> None:
    (full, half) = as_json(run, with_nulls, "table", "nulls", "--value", "tflops", "--where", "devices=all")
    flops = 6 * 128 * 256
    assert full["tflops"] == pytest.approx(2048 * flops / 1e9, rel=1e-3)
    assert half["tflops"] == pytest.approx(1024 * flops / 1e9, rel=1e-3)
    (full, half) = as_json(run, with_nulls, "table", "nulls", "--value", "tflops_per_device", "--where", "devices=all")
    assert full["tflops_per_device"] == pytest.approx(2048 * flops / 1e9 / 4, rel=1e-3)
    rows = as_json(run, with_nulls, "export", "nulls")
    assert {
        (row["job.null_route_frac"], row["job.devices"]): (row["devices"], row["model_flops"], row["executed_flops"])
        for row in rows
    } == {
        (0.0, 1): (1, 2048 * flops, 2048 * flops),
        (0.0, "all"): (4, 2048 * flops, 2048 * flops),
        (0.5, 1): (1, 1024 * flops, 1024 * flops),
        (0.5, "all"): (4, 1024 * flops, 1024 * flops),
    }
    assert {tuple(row["job.tiles.forward"]) for row in rows} == {(128, 128, 128)}
    name = next(row["run"] for row in rows if (row["job.null_route_frac"], row["job.devices"]) == (0.5, "all"))
    shown = {row["field"]: row["value"] for row in as_json(run, with_nulls, "show", name)["rates"]}
    assert (shown["devices"], shown["model_flops"]) == (4, 1024 * flops)


def test_compare_of_other_numbers_of_devices_is_per_device_and_says_so(run: Command, with_nulls: Path) -> None:
    comparisons = as_json(run, with_nulls, "compare", "nulls")["comparisons"]
    assert [row["per_device"] for row in comparisons] == ["4 against 1 devices"] * 2
    assert [row["ratio"] for row in comparisons] == [pytest.approx(0.25)] * 2
    assert all("per device: 4 devices against 1" in row["sentence"] for row in comparisons)


def test_compare_of_equal_numbers_of_devices_does_not_speak_of_them(run: Command, measured: Path) -> None:
    assert not any("per_device" in row for row in as_json(run, measured, "compare", "first")["comparisons"])


def test_rates_of_a_run_that_counted_no_rows_are_missing(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger, NULLS)
        measure(ledger, equal_times)
    rows = as_json(run, path, "table", "nulls", "--value", "tflops", "--where", "devices=1")
    assert [row["tflops"] for row in rows] == [pytest.approx(2048 * 6 * 128 * 256 / 1e9, rel=1e-3), "no tflops"]


def test_rates_of_a_micro_benchmark_are_bytes_and_tokens(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    text = (
        '[experiment]\nid = "m"\ngoal = "g"\n[job]\nkind = "pack"\ntokens = 1024\nhidden = 128\nexperts = 8\n'
        "[axes]\ntopk = [2]\n[measure]\nblocks = 1\niters = 3\n"
    )
    with Ledger.open(path) as ledger:
        queue(ledger, text)
        measure(ledger, equal_times)
    (row,) = as_json(run, path, "export", "m")
    assert (row["formula"], row["bytes_per_token_strict"]) == ("routing/1", 6 * 128 * 2)
    assert row["bw_gibps_strict"] == pytest.approx(6 * 128 * 2 * 1024 / 1e-3 / 2**30)


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (("table", "first", "--value", "error"), BadLayout, "error:dx, error:y"),
        (("table", "first", "--value", "error:z"), BadLayout, "error:dx, error:y"),
        (("table", "first", "--value", "nope"), NothingMatched, "load_cv"),
        (("table", "first", "--rows", "nope"), BadLayout, "the axes are backend, experts"),
        (("table", "first", "--where", "nope=1"), BadLayout, "the axes are backend, experts"),
        (("table", "first", "--where", "experts=5"), NothingMatched, "experts has 4, 8, 16"),
        (("table", "first", "--where", "experts"), HillclimbError, "write AXIS=VALUE"),
        (("ls", "frist"), UnknownExperiment, "did you mean 'first'?"),
        (("ls", "zzz"), UnknownExperiment, "`hillclimb ls` lists them"),
        (("ls", ""), UnknownExperiment, "`hillclimb ls` lists them"),
        (("ls", "first", "--series", "7"), NothingMatched, "it has 1"),
        (("ls", "-o", "yaml"), HillclimbError, "choose one of table, json, jsonl, csv, md"),
        (("show", "77.0"), NothingMatched, "VISIT.SLOT"),
        (("show", "1.99"), NothingMatched, "VISIT.SLOT"),
        (("show", "99999999999999999999.0"), NothingMatched, "no job"),
        (("show", "xyz"), NothingMatched, "no job 'xyz'"),
        (("show", ""), NothingMatched, "no job"),
        (("sql", "DELETE FROM run"), BadQuery, "only reads"),
        (("sql", "ATTACH 'evil.db' AS evil"), BadQuery, "only reads"),
        (("sql", "PRAGMA writable_schema = 1"), BadQuery, "only reads"),
        (("sql", "VACUUM INTO 'evil.db'"), BadQuery, "cannot VACUUM"),
        (("sql", "SELECT 1; SELECT 2"), BadQuery, "one statement"),
        (("sql", "SELEKT 1"), BadQuery, "syntax error"),
        (("sql", "SELECT nope FROM run"), BadQuery, "no such column"),
    ],
)
def test_reader_bad_input_says_what_and_how_on(
    run: Command, measured: Path, words: tuple[str, ...], error: type[HillclimbError], told: str
) -> None:
    with pytest.raises(error) as raised:
        run(*words, ledger=measured)
    assert told in str(raised.value)
    assert raised.value.exit_code == (5 if error in (UnknownExperiment, NothingMatched) else 2)
    assert not Path("evil.db").exists()


def test_show_run_has_everything_about_it(run: Command, measured: Path) -> None:
    report = as_json(run, measured, "show", "2.0")
    fields = {row["field"]: row["value"] for row in report["run"]}
    assert (fields["run"], fields["outcome"], fields["accepted"], fields["host"]) == ("2.0", "ok", True, "h1")
    assert {row["field"]: row["value"] for row in report["environment"]}["jax"] == "0.10.2"
    assert [row["wall_ns"] for row in report["samples"]] == [4_000_000, 4_001_000, 4_005_000]
    rates = {row["field"]: row["value"] for row in report["rates"]}
    assert (rates["devices"], rates["version"]) == (1, "moe/1")
    assert rates["tokens_per_s"] == pytest.approx(1024 / 4.001e-3)
    assert {"error", "load_cv"} <= {row["name"] for row in report["metrics"]}
    assert "run_ended" in [row["event"] for row in report["events"]]


def test_show_job_prefix_lists_its_runs_and_an_ambiguous_one_the_candidates(run: Command, measured: Path) -> None:
    job = as_json(run, measured, "ls", "first")[0]["job"]
    assert [row["run"] for row in as_json(run, measured, "show", job[:10])["runs"]] == ["1.0", "2.0", "3.0"]
    with sqlite3.connect(measured) as db:
        ids = [row[0] for row in db.execute("SELECT id FROM job")]
    shared = next((p for p in "0123456789abcdef" if sum(i.startswith(p) for i in ids) > 1), None)
    if shared is not None:
        with pytest.raises(Ambiguous, match=r"is ambiguous: .*, .*give more of it"):
            run("show", shared, ledger=measured)


def test_compare_answers_with_a_sentence_and_a_conclusion(run: Command, measured: Path) -> None:
    report = as_json(run, measured, "compare", "first")
    assert [(row["arm"], row["reference"], row["verdict"]) for row in report["comparisons"]] == [
        ("blocked e4", "ragged_dot e4", "win"),
        ("blocked e16", "ragged_dot e16", "win"),
    ]
    assert report["comparisons"][1]["ratio"] == pytest.approx(8.0, rel=1e-3)
    assert "blocked e16 is 8.0x faster than ragged_dot e16" in report["comparisons"][1]["sentence"]
    assert report["conclusions"][0]["conclusion"].endswith("geometric mean x4.0; the gap grows with experts")
    assert run("compare", "first", "--strict", ledger=measured).code == 0


def test_export_samples_are_the_iterations_of_the_runs(run: Command, measured: Path) -> None:
    samples = as_json(run, measured, "export", "first", "--samples")
    runs = as_json(run, measured, "export", "first")
    assert len(samples) == sum(row["iters"] for row in runs) == 3 * 5 * 3
    assert {row["job.tokens"] for row in runs} == {1024}
    assert {row["formula"] for row in runs} == {"moe/1"}


def test_sql_two_columns_of_one_name_are_both_kept(run: Command, measured: Path) -> None:
    (row,) = as_json(run, measured, "sql", "SELECT 1 AS a, 2 AS a, x'ff' AS b, 9e999 AS c")
    assert row == {"a": 1, "a_2": 2, "b": "ff", "c": "inf"}


def test_sql_leaves_the_ledger_as_it_was(run: Command, measured: Path) -> None:
    before = measured.read_bytes()
    with pytest.raises(BadQuery):
        run("sql", "UPDATE experiment SET goal = 'x'", ledger=measured)
    assert measured.read_bytes() == before


def test_ls_empty_ledger_says_so_and_prints_an_empty_list(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    Ledger.open(path).close()
    told = run("ls", "-o", "json", ledger=path)
    assert (told.code, told.out, told.err) == (
        0,
        "[]\n",
        f"{path} holds no experiment yet: `hillclimb run MATRIX` measures one\n",
    )
    assert run("ls", ledger=path).out == ""


def test_status_waiting_blocks_say_why(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        queue(ledger, MATRIX.replace('"first"', '"second"'))
        measure(ledger, visits=1)
        report = as_json(run, path, "status", "second")
        assert [row["why"] for row in report["waiting"]] == ["queued behind 2", "queued behind 3", "queued behind 4"]
        assert report["ledger"][0]["pid"] == os.getpid()
        ledger.pause("first", "lunch")
        why = {row["experiment"]: row["why"] for row in as_json(run, path, "status")["waiting"]}
        assert why["first"] == "paused (lunch): `hillclimb resume first` lets it go on"
        assert as_json(run, path, "status", "second")["waiting"][0]["why"] == "next"
        ledger.resume("first")
        ledger.see_condition("h1", HostState.UNKNOWN, "")
        assert as_json(run, path, "status", "first")["waiting"][0]["why"] == "its hosts are being looked at"
        ledger.see_condition("h1", HostState.QUARANTINED, "pid 7 holds it")
        report = as_json(run, path, "status", "first")
        assert "no usable host (h1 is quarantined: pid 7 holds it)" in report["waiting"][0]["why"]
        assert [(h["host"], h["state"], h["reason"]) for h in report["hosts"]] == [
            ("h1", "quarantined", "pid 7 holds it")
        ]
        ledger.see_host("h2", "m2", "cpu", 4)
        ledger.see_condition("h2", HostState.READY, "")
        assert as_json(run, path, "status", "first")["waiting"][0]["why"] == "next"
        assert len(as_json(run, path, "status", "first")["hosts"]) == 1
    report = as_json(run, path, "status", "first")
    assert report["ledger"][0]["held_by"] is None
    assert {row["why"] for row in report["waiting"]} == {"nobody drives this ledger: `hillclimb drive` does"}
    assert report["conclusion"][0]["conclusion"].startswith("first is not complete: 5 of 6 cells have no last word yet")
    assert (report["cells"][0]["state"], report["cells"][0]["reason"]) == ("waiting", "1 of 3 blocks")


def test_status_hosts_of_an_earlier_pool_do_not_count(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        for host in ("old", "new"):
            ledger.see_host(host, host, "cpu", 4)
            ledger.see_condition(host, HostState.READY, "")
    with Ledger.open(path) as ledger:
        ledger.see_condition("new", HostState.HELD, "held by ann")
        why = as_json(run, path, "status", "first")["waiting"][0]["why"]
        assert why == "no usable host (new is held: held by ann): `hillclimb pool check` says more"
    # who only asks, as `pause` does, has no hosts
    Ledger.open(path).close()
    assert [host["host"] for host in as_json(run, path, "status", "first")["hosts"]] == ["new"]


def test_status_running_visit_shows_its_phase(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with Ledger.open(path) as ledger:
        queue(ledger)
        ledger.see_host("h1", "m1", "cpu", 4)
        ledger.new_spool("h1", "spool")
        block = ledger.snapshot().blocks[0]
        visit = ledger.lease(block.id, "h1", [arm.slot for arm in block.arms])
        lines = list(_lines(ledger, visit, lambda job: by_experts(job, 0)))[:10]
        entries = [said.Entry(seq=i + 1, at_ns=i, visit=visit, body=body) for i, body in enumerate(lines)]
        ledger.ingest("spool", "h1", entries)
        report = as_json(run, path, "status", "first")
        (row,) = report["visits"]
        assert (row["visit"], row["phase"], row["slot"], row["ended"], row["slots"]) == (visit, "compile", 0, 1, 5)
        assert {cell["state"] for cell in report["cells"]} == {"running", "skipped"}
        assert len(report["waiting"]) == 2


def test_status_failed_cancelled_and_retired_cells_have_their_reason(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"

    def end(job: Job, ordinal: int) -> End:
        wrong = job.backend == "blocked" and job.experts == 16
        return End(kind=Kind.NUMERICS) if wrong else by_experts(job, ordinal)

    with Ledger.open(path) as ledger:
        queue(ledger)
        measure(ledger, end, visits=1)
        ledger.cancel("first", {"experts": "4"})
        cells = {row["cell"]: row for row in as_json(run, path, "status", "first")["cells"]}
        assert (cells["blocked e16"]["state"], cells["blocked e16"]["reason"][:3]) == ("failed(numerics)", "|it")
        assert cells["blocked e4"]["state"] == "cancelled"
        assert "after 1 of 3 blocks" in cells["blocked e4"]["reason"]
        assert cells["ragged_dot e8"]["state"] == "waiting"
        rows = as_json(run, path, "table", "first")
        assert rows[2]["backend=blocked time_ms"] == "failed(numerics)"
        told = run("compare", "first", "--strict", ledger=path)
        assert told.code == 4
        assert "blocked e16 has no block to compare with ragged_dot e16: failed(numerics)" in told.out
        failed = {row["field"]: row["value"] for row in as_json(run, path, "show", _run_of(path, "failed"))["run"]}
        assert (failed["kind"], failed["advice"]) == ("numerics", MEANING[Kind.NUMERICS].advice)
        assert "\x1b" not in run("show", _run_of(path, "failed"), ledger=path).out
        queue(ledger, MATRIX.replace("experts = [4, 8, 16]", "experts = [8, 16]"))
    states = {row["cell"]: row["state"] for row in as_json(run, path, "status", "first")["cells"]}
    assert states["blocked e4"] == "retired"


def _run_of(path: Path, outcome: str) -> str:
    with sqlite3.connect(path) as db:
        return str(db.execute("SELECT visit || '.' || slot FROM run WHERE outcome = ?", (outcome,)).fetchone()[0])


def test_status_poisoned_on_the_second_ambiguous_failure(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "l.db"

    def end(job: Job, ordinal: int) -> End:
        wrong = job.backend == "blocked" and job.experts == 16
        return End(kind=Kind.CRASH) if wrong else by_experts(job, ordinal)

    with Ledger.open(path) as ledger:
        queue(ledger)
        measure(ledger, end, visits=2)
        cells = {row["cell"]: row for row in as_json(run, path, "status", "first")["cells"]}
        # twice on one host: failed, not poisoned
        assert cells["blocked e16"]["state"] == "failed(crash)"
        ledger.retry("first", {})
        cells = {row["cell"]: row for row in as_json(run, path, "status", "first")["cells"]}
        assert cells["blocked e16"]["state"] == "waiting"


@pytest.mark.parametrize("make", ["missing", "directory", "text", "empty", "other", "newer", "older"])
def test_reader_what_is_no_ledger_is_named_with_the_way_on(run: Command, tmp_path: Path, make: str) -> None:
    path = tmp_path / "x.db"
    match make:
        case "directory":
            path.mkdir()
        case "text":
            path.write_text("hello, I am no database at all")
        case "empty":
            path.touch()
        case "other":
            with sqlite3.connect(path) as db:
                db.execute("CREATE TABLE t (x)")
        case "newer" | "older":
            Ledger.open(path).close()
            with sqlite3.connect(path) as db:
                db.execute("UPDATE alembic_version SET version_num = ?", ("9999" if make == "newer" else "0000",))
        case _:
            pass
    with pytest.raises(LedgerError) as raised:
        run("ls", ledger=path)
    assert str(path) in str(raised.value)
    assert any(word in str(raised.value) for word in ("--ledger", "upgrade", "hillclimb drive"))
    assert path.exists() == (make != "missing")
