"""Commands that read: ls, show, table, status, compare, export, sql. None of them can change a ledger."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import sqlite3

Experiment = Annotated[str, typer.Argument(help="an experiment's id, or the beginning of one")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="the ledger [$HILLCLIMB_LEDGER, ./hillclimb.db]")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, json, jsonl, csv or md")]
Series = Annotated[int | None, typer.Option("--series", help="an earlier measuring [the newest]")]


def register(app: typer.Typer) -> None:
    for command in (ls, show, table, status, compare, export, sql):
        app.command()(command)


def ls(
    experiment: Annotated[str | None, typer.Argument(help="an experiment's id, or the beginning of one")] = None,
    series: Series = None,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """List the experiments with the states of their cells, or one experiment's cells.

    hillclimb ls first
    """
    from orchestrator.report import listing
    from orchestrator.report.render import parse_output, print_rows

    form = parse_output(output)
    with _reader(ledger) as (db, path):
        rows = listing.experiments(db) if experiment is None else listing.cells(db, experiment, series)
    if not rows:
        typer.echo(f"{path} holds no experiment yet: `hillclimb run MATRIX` measures one", err=True)
    print_rows(rows, form)


def show(
    run: Annotated[str, typer.Argument(help="a run (VISIT.SLOT), or the beginning of a job's id")],
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Show everything about a run, or the runs of a job.

    hillclimb show 12.3
    """
    from orchestrator.report import about_run
    from orchestrator.report.render import parse_output, print_report

    form = parse_output(output)
    with _reader(ledger) as (db, _):
        report = about_run.show(db, run)
    print_report(report, form)


def table(
    experiment: Experiment,
    rows: Annotated[str | None, typer.Option("--rows", help="the axis down")] = None,
    cols: Annotated[str | None, typer.Option("--cols", help="the axis across")] = None,
    value: Annotated[
        str, typer.Option("--value", help="time_ms, ratio, a rate (tflops, mfu, …) or a metric")
    ] = "time_ms",
    where: Annotated[list[str] | None, typer.Option("--where", help="AXIS=VALUE: only these cells")] = None,
    series: Series = None,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Tabulate one value of every cell by two axes.

    hillclimb table first --rows experts --cols backend --value tokens_per_s
    """
    from orchestrator.report import pivot
    from orchestrator.report.render import parse_output, print_rows

    form = parse_output(output)
    layout = pivot.Layout(rows, cols, _assignments(where))
    with _reader(ledger) as (db, _):
        found = pivot.table(db, experiment, layout, value, series)
    print_rows(found, form)


def status(
    experiment: Annotated[str | None, typer.Argument(help="an experiment's id, or the beginning of one")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="first say what changes, until there is no more")] = False,
    series: Series = None,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Say whether every cell has its last word, what runs, and why each waiting block waits.

    With --follow it exits as a `run` that ended so: 3 with failed jobs, 6 when nobody drives what is left.

    hillclimb status first --follow
    """
    from orchestrator.report import status as standing
    from orchestrator.report.render import parse_output, print_report

    form = parse_output(output)
    code = _follow(experiment, series, ledger) if follow else 0
    with _reader(ledger) as (db, path):
        report = standing.overall(db, path) if experiment is None else standing.one(db, path, experiment, series)
    print_report(report, form)
    raise typer.Exit(code)


def compare(
    experiment: Experiment,
    strict: Annotated[bool, typer.Option("--strict", help="exit 4 unless every comparison has a verdict")] = False,
    series: Series = None,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Answer the experiment: every arm against its reference, with interval, verdict and a sentence.

    hillclimb compare first
    """
    from orchestrator.report.answer import answer
    from orchestrator.report.render import parse_output, print_report

    form = parse_output(output)
    with _reader(ledger) as (db, _):
        found = answer(db, experiment, series)
    print_report(found.report, form)
    if strict and not found.decided:
        raise typer.Exit(4)


def export(
    experiment: Experiment,
    samples: Annotated[bool, typer.Option("--samples", help="one row a timed iteration instead of one a run")] = False,
    series: Series = None,
    ledger: LedgerOption = None,
    output: Output = "csv",
) -> None:
    """Write out every run of an experiment, counted or not, for analysis elsewhere.

    hillclimb export first -o csv > runs.csv
    """
    from orchestrator.report import export as exporting
    from orchestrator.report.render import parse_output, print_rows

    form = parse_output(output)
    with _reader(ledger) as (db, _):
        rows = exporting.samples(db, experiment, series) if samples else exporting.runs(db, experiment, series)
    print_rows(rows, form)


def sql(
    query: Annotated[str, typer.Argument(help="one SQL statement that reads")],
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Ask the ledger in SQL, read-only.

    hillclimb sql "SELECT outcome, count(*) FROM run GROUP BY outcome"
    """
    from orchestrator.report.render import parse_output, print_rows
    from orchestrator.report.sql import ask

    form = parse_output(output)
    with _reader(ledger) as (db, _):
        rows = ask(db, query)
    print_rows(rows, form)


def _follow(experiment: str | None, series: int | None, ledger: Path | None) -> int:
    from time import monotonic

    from rich.console import Console

    from core.errors import HillclimbError
    from core.ledger.paths import default_path
    from orchestrator.follow import follow
    from orchestrator.progress import Progress

    if series is not None:
        raise HillclimbError("--follow and --series exclude each other: only the newest series is being measured")
    with Progress(Console(stderr=True), monotonic) as progress:
        return follow(default_path(ledger), experiment, progress)


@contextmanager
def _reader(option: Path | None) -> Iterator[tuple["sqlite3.Connection", Path]]:
    from core.ledger.paths import default_path
    from core.ledger.reader import open_reader

    path = default_path(option)
    with open_reader(path) as db:
        yield db, path


def _assignments(where: list[str] | None) -> dict[str, str]:
    from core.errors import HillclimbError

    for text in where or []:
        if "=" not in text:
            raise HillclimbError(f"--where {text}: write AXIS=VALUE")
    return dict(text.split("=", 1) for text in where or [])
