"""Commands about the hosts of a pool: check, recover, drain, release. Each asks every host at once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.run import Hosts, Output, PoolOption, reachable_pool

if TYPE_CHECKING:
    from core.protocol import Verb

Some = Annotated[list[str] | None, typer.Argument(help="hosts of the pool [all]", metavar="HOST")]
These = Annotated[list[str], typer.Argument(help="hosts of the pool", metavar="HOST")]

app = typer.Typer(help="Look at the hosts of a pool, free them, set them aside.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    for command in (check, recover, drain, release):
        app.command()(command)
    parent.add_typer(app, name="pool")


def check(host: Some = None, pool: PoolOption = "local", hosts: Hosts = None, output: Output = "table") -> None:
    """Show how every host is: ready, busy, held, or what is wrong. Exit 1 when one needs a person.

    hillclimb pool check --pool pools/mine.toml
    """
    from core.protocol import Verb

    _care(Verb.CHECK, host or (), pool, hosts, output)


def recover(host: Some = None, pool: PoolOption = "local", hosts: Hosts = None, output: Output = "table") -> None:
    """Free a busy accelerator, step by step: who holds it, TERM, KILL, lock file, a trial start. Exit 1 if in vain.

    hillclimb pool recover v5p-a --pool pools/mine.toml
    """
    from core.protocol import Verb

    _care(Verb.RECOVER, host or (), pool, hosts, output)


def drain(
    host: These,
    why: Annotated[str, typer.Option("--why", help="shown to everyone who waits for it")] = "set aside by hand",
    pool: PoolOption = "local",
    hosts: Hosts = None,
    output: Output = "table",
) -> None:
    """Let hosts finish what runs and take no further visit, of any ledger, until released.

    hillclimb pool drain v5p-a --why "its disk is being changed" --pool pools/mine.toml
    """
    from core.protocol import Verb

    _care(Verb.DRAIN, host, pool, hosts, output, why)


def release(host: These, pool: PoolOption = "local", hosts: Hosts = None, output: Output = "table") -> None:
    """Let drained or quarantined hosts take visits again.

    hillclimb pool release v5p-a --pool pools/mine.toml
    """
    from core.protocol import Verb

    _care(Verb.RELEASE, host, pool, hosts, output)


def _care(verb: "Verb", names: Sequence[str], pool: str, hosts: int | None, output: str, why: str = "") -> None:
    """Asks, prints a row a host, and exits 1 when one is not as `verb` wants it."""
    import asyncio
    import os

    from core.code import code_hash
    from core.ledger.lock import user_name
    from core.protocol import Care
    from orchestrator import care
    from orchestrator.join import join
    from orchestrator.report import condition
    from orchestrator.report.render import parse_output, print_rows

    def say(line: str) -> None:
        typer.echo(line, err=True)

    form, wanted = parse_output(output), reachable_pool(pool, hosts)
    asked = Care(verb=verb, user=user_name(), machine=os.uname().nodename, why=why)
    with join(wanted, say) as (specs, fleet):
        chosen = care.chosen(names, [spec.name for spec in specs])
        within_s = care.patience_s(verb, wanted.deadlines)
        answers = asyncio.run(care.ask(fleet, chosen, asked, within_s))
    for answer in answers:
        for line in condition.told(answer):
            say(line)
    code = code_hash()
    print_rows([condition.row(answer, code) for answer in answers], form)
    if not all(condition.is_as_asked(verb, answer, code) for answer in answers):
        raise typer.Exit(1)
