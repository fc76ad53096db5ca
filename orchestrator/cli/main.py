"""`hillclimb`: the commands by noun, and what becomes of an error that reaches the top."""

import signal
import sys
import tempfile
import traceback
from functools import partial

import typer

from core.errors import HillclimbError
from core.printable import printable
from orchestrator.cli import here, pool, read, run

app = typer.Typer(
    name="hillclimb",
    help="Queue a matrix of Mixture-of-Experts benchmarks against a pool, and read the answer from the ledger.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run.register(app)
read.register(app)
pool.register(app)
here.register(app)


@app.callback(invoke_without_command=True)
def welcome(context: typer.Context) -> None:
    """Queue a matrix of Mixture-of-Experts benchmarks against a pool, and read the answer from the ledger."""
    if context.invoked_subcommand is None:
        from core.ledger.paths import default_path

        for line in run.next_things(default_path(None)):
            typer.echo(line)


def _interrupted(code: int, *_: object) -> None:
    """Until a controller takes the signals: nothing is under way that an end would hurt."""
    sys.exit(code)


def main() -> None:
    """The console script. Exit codes: DESIGN section 11."""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)):
        signal.signal(number, partial(_interrupted, code))
    try:
        app()
    except HillclimbError as error:
        print(f"hillclimb: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output has gone: nobody is left to tell
        sys.stderr.close()
        sys.exit(0)
    except Exception as bug:  # noqa: BLE001 - the last line of defence: a sentence and a file, not a traceback
        with tempfile.NamedTemporaryFile("w", prefix="hillclimb-", suffix=".txt", delete=False) as report:
            traceback.print_exc(file=report)
        what = printable(traceback.format_exception_only(bug)[0].strip())
        print(f"hillclimb: a bug of ours ({what}): please report it with {report.name}", file=sys.stderr)
        sys.exit(70)
