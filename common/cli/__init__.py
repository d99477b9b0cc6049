"""The command `privet`. Commands are plain functions; what they need is imported in their bodies."""

import os
import sys
from typing import Annotated

# One thread a process until a site's file says more: several processes of several threads collapse under contention.
# This must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
import typer.core

from privet.common.cli import (
    audit,
    bench,
    demo,
    docs,
    evaluate,
    export,
    init,
    ledger,
    log,
    predict,
    report,
    run,
    status,
    sweep,
)

typer.core.HAS_RICH = False  # else it escapes the brackets of its plain help, as if for markup

app = typer.Typer(
    name="privet",
    help="Fine-tune one BERT across sites whose text may never leave the building.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(init.app, name="init", help="Write starter files: a federation's, a site's, an invitation.")
app.command("check")(run.check)
app.command("approve")(ledger.approve)
app.command("server")(run.server)
app.command("client")(run.client)
app.command("status")(status.status)
app.command("ledger")(ledger.ledger)
app.command("log")(log.log)
app.command("simulate")(run.simulate)
app.command("sweep")(sweep.sweep)
app.command("audit")(audit.audit)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("demo")(demo.demo)
app.add_typer(bench.app, name="bench", hidden=True)
app.add_typer(docs.app, name="docs", help="Generated text to try privet with; figures of the documentation.")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"privet {version('privet')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; exit 0 done, 1 failed, 2 the user's input, 3 refused by a site's policy or budget."""
    from privet.common import quiet  # noqa: F401  (before flwr and transformers are imported)
    from privet.common.errors import PrivetError
    from privet.common.logs import set_up
    from privet.common.terminal import printable

    try:
        set_up(as_json="--json" in sys.argv)
        app(standalone_mode=True)
    except PrivetError as error:
        print(printable(f"privet: {error}"), file=sys.stderr)
        if "--json" in sys.argv:
            import json

            print(json.dumps({"error": error.what, "where": error.where, "mend": error.mend, "exit": error.exit_code}))
        leave(error.exit_code)
    except KeyboardInterrupt:
        print("privet: stopped.", file=sys.stderr)
        leave(1)


_THREADED = ("client.link", "server.fleet", "simulations.run", "simulations.audit.run")


def leave(code: int) -> None:
    """Exit. Threads of the libraries can outlive a broken connection or a run, so it ends hard once all is flushed."""
    sys.stdout.flush()
    sys.stderr.flush()
    if any(f"privet.{room}" in sys.modules for room in _THREADED):
        os._exit(code)
    sys.exit(code)
