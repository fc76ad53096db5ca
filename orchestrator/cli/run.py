"""Commands that change something: run, queue, drive, plan, cancel, retry, pause, resume."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import HillclimbError

if TYPE_CHECKING:
    from rich.console import Console

    from infra.pool import Pool

Matrix = Annotated[Path, typer.Argument(help="the matrix, a TOML file")]
Experiment = Annotated[str, typer.Argument(help="an experiment's id, or the beginning of one")]
LedgerOption = Annotated[Path | None, typer.Option("--ledger", help="the ledger [$HILLCLIMB_LEDGER, ./hillclimb.db]")]
PoolOption = Annotated[str, typer.Option("--pool", help="`local`, or a pool file")]
Hosts = Annotated[int | None, typer.Option("--hosts", min=1, max=64, help="emulated hosts of the local pool")]
Axes = Annotated[list[str] | None, typer.Option("-a", "--axis", help="AXIS=V1,V2: other values for an axis")]
Excludes = Annotated[list[str] | None, typer.Option("-x", "--exclude", help="AXIS=V: leave these cells out")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE: another value in the file")]
Detach = Annotated[bool, typer.Option("--detach", help="drive it in a process that outlives this terminal")]
Again = Annotated[bool, typer.Option("--again", help="the code or [measure] changed: measure a new series")]
SameSeries = Annotated[bool, typer.Option("--same-series", help="the code or [measure] changed: go on in the old")]
Where = Annotated[list[str] | None, typer.Option("--where", help="FIELD=VALUE: only these jobs")]
Output = Annotated[str, typer.Option("-o", "--output", help="table, json, jsonl, csv or md")]


def register(app: typer.Typer) -> None:
    for command in (run, queue, drive, plan, cancel, retry, pause, resume):
        app.command()(command)


def run(
    matrix: Matrix,
    pool: PoolOption = "local",
    hosts: Hosts = None,
    axis: Axes = None,
    exclude: Excludes = None,
    set_: Sets = None,
    again: Again = False,
    same_series: SameSeries = False,
    detach: Detach = False,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Queue a matrix, drive it to its end and print the comparison. What is measured already is not measured again.

    hillclimb run matrices/first.toml
    """
    from core.ledger.paths import default_path
    from core.ledger.writer import Ledger
    from orchestrator.report.outcome import outcome
    from orchestrator.report.render import parse_output, print_report
    from orchestrator.requests import answer_all, enqueue
    from orchestrator.session import check_revisions
    from orchestrator.session import drive as drive_pool

    form, wanted, path, console = parse_output(output), reachable_pool(pool, hosts), default_path(ledger), _stderr()
    body = _queue_body(matrix, axis, exclude, set_, again, same_series)
    check_revisions(wanted, body)
    if detach:
        if output != "table":
            raise HillclimbError(f"-o {output}: --detach prints no comparison; leave it out, and ask `compare` later")
        _queue_and_detach(path, body, pool, hosts)
        return
    with Ledger.open(path) as held:
        answer_all(held)
        queued = enqueue(held, body)
        for sentence in queued.sentences:
            typer.echo(sentence, err=True)
        open_blocks, scope = queued.ledger.blocks_open, {queued.experiment}
        status = drive_pool(held, wanted, scope, console, body["code"]) if open_blocks else 0
    print_report(outcome(path, queued.experiment), form)
    raise typer.Exit(status)


def queue(
    matrix: Matrix,
    axis: Axes = None,
    exclude: Excludes = None,
    set_: Sets = None,
    again: Again = False,
    same_series: SameSeries = False,
    ledger: LedgerOption = None,
) -> None:
    """Queue a matrix without running it; a controller that runs takes it up.

    hillclimb queue matrices/first.toml && hillclimb drive
    """
    _decide(ledger, "queue", _queue_body(matrix, axis, exclude, set_, again, same_series))


def drive(
    experiment: Annotated[list[str] | None, typer.Argument(help="experiments, or the beginnings of them [all]")] = None,
    pool: PoolOption = "local",
    hosts: Hosts = None,
    detach: Detach = False,
    ledger: LedgerOption = None,
) -> None:
    """Drive what is queued to its end.

    hillclimb drive --pool pools/mine.toml
    """
    from core.code import code_hash
    from core.ledger.paths import default_path
    from core.ledger.queries import find_experiment
    from core.ledger.reader import open_reader
    from core.ledger.writer import Ledger
    from orchestrator.requests import answer_all, find, require
    from orchestrator.session import drive as drive_pool

    path, names = default_path(ledger), experiment or []
    require(path)
    wanted = reachable_pool(pool, hosts)
    if detach:
        with open_reader(path) as db:
            names = [find_experiment(db, name).id for name in names]
        _detach(path, names, pool, hosts)
        return
    with Ledger.open(path) as held:
        # it may have been asked to queue what is named here
        answer_all(held)
        scope = {find(held, name) for name in names} or None
        raise typer.Exit(drive_pool(held, wanted, scope, _stderr(), code_hash()))


def plan(
    matrix: Matrix,
    axis: Axes = None,
    exclude: Excludes = None,
    set_: Sets = None,
    again: Again = False,
    same_series: SameSeries = False,
    ledger: LedgerOption = None,
    output: Output = "table",
) -> None:
    """Show what `run` would do: every cell with its job or the reason it has none. Changes nothing.

    hillclimb plan matrices/first.toml -x experts=16
    """
    from core.ledger.paths import default_path
    from orchestrator.rehearsal import rehearse
    from orchestrator.report.render import parse_output, print_rows

    form = parse_output(output)
    rows, sentences = rehearse(default_path(ledger), _queue_body(matrix, axis, exclude, set_, again, same_series))
    print_rows(rows, form)
    for sentence in sentences:
        typer.echo(sentence, err=True)


def cancel(experiment: Experiment, where: Where = None, ledger: LedgerOption = None) -> None:
    """Close an experiment's open blocks; what is measured stands.

    hillclimb cancel first --where experts=16
    """
    _decide(ledger, "cancel", {"experiment": experiment, "where": _pairs("--where", where)})


def retry(experiment: Experiment, where: Where = None, ledger: LedgerOption = None) -> None:
    """Forgive an experiment's failed jobs and queue them again; a paused experiment goes on.

    hillclimb retry first
    """
    _decide(ledger, "retry", {"experiment": experiment, "where": _pairs("--where", where)})


def pause(
    experiment: Experiment,
    why: Annotated[str, typer.Option("--why", help="shown by status")] = "paused by hand",
    ledger: LedgerOption = None,
) -> None:
    """Assign no new visit of an experiment; what runs goes on.

    hillclimb pause first --why "the host is needed"
    """
    _decide(ledger, "pause", {"experiment": experiment, "why": why})


def resume(experiment: Experiment, ledger: LedgerOption = None) -> None:
    """Let a paused experiment go on.

    hillclimb resume first
    """
    _decide(ledger, "resume", {"experiment": experiment})


def next_things(ledger: Path) -> list[str]:
    """The three next things to do here."""
    if not ledger.exists():
        return [
            "hillclimb plan matrices/first.toml    what the first matrix would measure",
            "hillclimb run matrices/first.toml     measure it on this machine",
            "hillclimb --help                      everything else",
        ]
    return [
        "hillclimb ls                          the experiments in this ledger",
        "hillclimb status                      what is missing, and why it waits",
        "hillclimb compare EXPERIMENT          the answer, with its uncertainty",
    ]


def _queue_body(
    matrix: Path,
    axis: list[str] | None,
    exclude: list[str] | None,
    set_: list[str] | None,
    again: bool,
    same_series: bool,
) -> dict[str, Any]:
    """The request that queues a matrix, with the file already read and found valid."""
    from core.ledger.writer import OnChange
    from core.matrix import Overrides, read_text
    from orchestrator.requests import expansion_of, queue_body

    if again and same_series:
        raise HillclimbError("--again and --same-series exclude each other: a new series, or on in the old one")
    axes = _pairs("-a", axis)
    overrides = Overrides(axes=axes, exclude=tuple(exclude or ()), sets=tuple(set_ or ()))
    on_change = OnChange.AGAIN if again else OnChange.SAME_SERIES if same_series else OnChange.REFUSE
    body = queue_body(read_text(matrix), str(matrix), overrides, on_change)
    expansion_of(body)
    return body


def _queue_and_detach(path: Path, body: dict[str, Any], pool: str, hosts: int | None) -> None:
    """Queues a matrix, here or with the controller that drives the ledger, and starts one where there is none."""
    from core.ledger.holder import holder
    from core.ledger.queries import queue as open_blocks
    from core.ledger.queries import unanswered
    from core.ledger.reader import open_reader
    from orchestrator.requests import decide, expansion_of

    experiment = expansion_of(body).experiment
    before = holder(path)
    typer.echo(decide(path, "queue", body), err=True)
    if before is not None and holder(path) == before:
        typer.echo(f"pid {before.pid} on {before.machine} drives this ledger and takes {experiment} up")
        typer.echo(f"hillclimb status {experiment} --follow    shows how it goes")
        return
    with open_reader(path) as db:
        # who held the ledger for a moment may have left the request to the next
        waits = unanswered(db) or any(block.experiment == experiment for block in open_blocks(db))
    if waits:
        _detach(path, [experiment], pool, hosts)


def _detach(path: Path, names: list[str], pool: str, hosts: int | None) -> None:
    """Starts `hillclimb drive` in a process of its own and says how to reach it. Raises Died."""
    from core.ledger.paths import log_path
    from orchestrator.detach import start

    emulated = [] if hosts is None else ["--hosts", str(hosts)]
    pid = start(["drive", *names, "--pool", pool, *emulated, "--ledger", str(path)], path)
    typer.echo(f"pid {pid} drives {', '.join(names) or 'what is queued'}; what it says goes to {log_path(path)}")
    typer.echo(f"hillclimb status {names[0] + ' ' if len(names) == 1 else ''}--follow    shows how it goes")
    typer.echo(f"kill {pid}    ends it; `hillclimb drive` goes on from there")


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping. Raises HillclimbError."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise HillclimbError(f"{option} {text!r}: write it as NAME=VALUE")
        if name in pairs:
            raise HillclimbError(f"{option} {text!r}: {name} is given twice: give it once")
        pairs[name] = value
    return pairs


def reachable_pool(name: str, hosts: int | None) -> "Pool":
    """The pool of that name, found reachable. Raises PoolError."""
    from orchestrator.session import check

    pool = chosen_pool(name, hosts)
    check(pool)
    return pool


def chosen_pool(name: str, hosts: int | None) -> "Pool":
    """The pool of that name. Raises PoolError."""
    from infra.pool import LocalPool, read_pool

    pool = read_pool(name)
    if hosts is None:
        return pool
    if not isinstance(pool, LocalPool):
        raise HillclimbError(f"--hosts {hosts}: only the local pool emulates hosts; {name} has the hosts it has")
    return pool.model_copy(update={"hosts": hosts})


def _decide(ledger: Path | None, verb: str, body: dict[str, Any]) -> None:
    from core.ledger.paths import default_path
    from orchestrator.requests import decide

    typer.echo(decide(default_path(ledger), verb, body))


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)
