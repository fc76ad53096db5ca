"""Commands that need neither a ledger nor a pool: schema."""

from enum import StrEnum
from typing import Annotated

import typer


class File(StrEnum):
    """A kind of file that a person writes."""

    POOL = "pool"


def register(parent: typer.Typer) -> None:
    parent.command()(schema)


def schema(of: Annotated[File, typer.Argument(help="which file's")] = File.POOL) -> None:
    """Print the JSON Schema of pool files, with which an editor completes and checks them.

    hillclimb schema pool > pool.schema.json
    """
    import json

    from infra.pool import POOL

    match of:
        case File.POOL:
            typer.echo(json.dumps(POOL.json_schema(), indent=2))
