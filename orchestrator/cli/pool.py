"""Commands about the hosts of a pool: up, down and status of its Ray; check, recover, drain and release of each host.

Each is done on all hosts at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import HillclimbError
from core.printable import printable
from orchestrator.cli.run import Hosts, Output, PoolOption, chosen_pool

if TYPE_CHECKING:
    from core.protocol import Verb
    from infra.pool import SshPool

Some = Annotated[list[str] | None, typer.Argument(help="hosts of the pool [all]", metavar="HOST")]
These = Annotated[list[str], typer.Argument(help="hosts of the pool", metavar="HOST")]

SshPoolOption = Annotated[str, typer.Option("--pool", help="a pool file of kind ssh")]

app = typer.Typer(help="Bring a pool up, look at its hosts, free them, set them aside.", no_args_is_help=True)


def register(parent: typer.Typer) -> None:
    for command in (up, status, down, check, recover, drain, release):
        app.command()(command)
    parent.add_typer(app, name="pool")


def up(pool: SshPoolOption, output: Output = "table") -> None:
    """Bring Ray up on the hosts of an ssh pool, with this code: what is there already stays. Exit 1 when some fail.

    hillclimb pool up --pool pools/v5p.toml
    """
    from contextlib import closing

    from infra.bundle import bundle_of
    from infra.cluster import Cluster
    from orchestrator.report import machines
    from orchestrator.report.render import parse_output, print_rows

    form, wanted = parse_output(output), _ssh_pool(pool, "up")
    with closing(Cluster(wanted, bundle_of(""), _say)) as cluster:
        cluster.up()
        _say(f"Ray's head is at {cluster.address}")
        print_rows(machines.joined(wanted, cluster), form)
        if cluster.failed:
            raise typer.Exit(1)


def status(pool: SshPoolOption, output: Output = "table") -> None:
    """Show what runs on the machines of an ssh pool, who uses them, and the room they have. Changes nothing.

    hillclimb pool status --pool pools/v5p.toml
    """
    from infra import upkeep
    from orchestrator.report import machines
    from orchestrator.report.render import parse_output, print_rows

    form, wanted = parse_output(output), _ssh_pool(pool, "status")
    print_rows([machines.standing(found) for found in upkeep.status(wanted)], form)


def down(
    pool: SshPoolOption,
    force: Annotated[bool, typer.Option("--force", help="also what somebody uses, and hosts that are silent")] = False,
    output: Output = "table",
) -> None:
    """End Ray on the hosts of an ssh pool; give them back where the pool has a `release` command. Exit 6 when in use.

    hillclimb pool down --pool pools/v5p.toml
    """
    from infra import upkeep
    from orchestrator.report import machines
    from orchestrator.report.render import parse_output, print_rows

    form, wanted = parse_output(output), _ssh_pool(pool, "down")
    endings = upkeep.down(wanted, force, _say)
    print_rows([machines.ending(found) for found in endings], form)
    if any(found.trouble for found in endings):
        raise typer.Exit(1)


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


def _say(line: str) -> None:
    typer.echo(printable(line), err=True)


def _ssh_pool(name: str, command: str) -> "SshPool":
    """Raises PoolError, HillclimbError."""
    from infra.pool import SshPool, read_pool

    pool = read_pool(name)
    if not isinstance(pool, SshPool):
        raise HillclimbError(
            f"--pool {name}: `pool {command}` is for pools of kind ssh; a {pool.kind} pool is brought up "
            f"{'by every command that needs it' if pool.kind == 'local' else 'by whoever runs its Ray'}: "
            "ask `hillclimb pool check`"
        )
    return pool


def _care(verb: "Verb", names: Sequence[str], pool: str, hosts: int | None, output: str, why: str = "") -> None:
    """Asks, prints a row a host, and exits 1 when one is not as `verb` wants it."""
    import asyncio
    import os

    from core.code import code_hash
    from core.ledger.lock import user_name
    from core.protocol import Care
    from infra.pool import SshPool
    from orchestrator import care
    from orchestrator.join import join
    from orchestrator.report import condition
    from orchestrator.report.render import parse_output, print_rows
    from orchestrator.session import check

    form, wanted = parse_output(output), chosen_pool(pool, hosts)
    # what is wrong with an ssh pool is told host by host
    if not isinstance(wanted, SshPool):
        check(wanted)
    asked = Care(verb=verb, user=user_name(), machine=os.uname().nodename, why=why)
    with join(wanted, _say, start=False) as (specs, fleet, failed, _):
        order = wanted.hosts if isinstance(wanted, SshPool) else [spec.name for spec in specs]
        chosen = care.chosen(names, list(order))
        within_s = care.patience_s(verb, wanted.deadlines)
        up = [name for name in chosen if name not in failed]
        answered = {answer.host: answer for answer in asyncio.run(care.ask(fleet, up, asked, within_s))}
    answers = [answered.get(name) or care.Answer(name, None, failed[name], left_out=True) for name in chosen]
    for answer in answers:
        for line in condition.told(answer):
            _say(line)
    code = code_hash()
    print_rows([condition.row(answer, code) for answer in answers], form)
    if not all(condition.is_as_asked(verb, answer, code) for answer in answers):
        raise typer.Exit(1)
