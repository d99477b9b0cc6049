"""`privet demo`."""

from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.options import AsJson


def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where its files are made. Default: runs/demo-UTC.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a whole federation on this machine. Three generated hospitals and their server over gRPC and TLS."""
    import sys

    from privet.common.cli import leave
    from privet.common.cli.run import stopped_by_signal
    from privet.common.errors import ConfigError
    from privet.server.live import watch
    from privet.simulations.demo import Outcome, run_demo

    if folder is not None and folder.exists():
        raise ConfigError("the folder exists.", where=str(folder), mend="give one that does not.")

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with stopped_by_signal(), watch("privet demo", as_json=as_json) as listener:
        outcome: Outcome = run_demo(folder, listener, tell)
    if as_json:
        import json

        print(
            json.dumps(
                {
                    "event": "outcome",
                    "run": str(outcome.run),
                    "together": outcome.together,
                    "alone": dict(outcome.alone),
                    "ceiling": outcome.ceiling,
                    "epsilon": dict(outcome.epsilon),
                    "seconds": round(outcome.seconds, 1),
                }
            )
        )
    else:
        _show(outcome)
    leave(0)


def _show(outcome: "Outcome") -> None:  # type: ignore[name-defined]  # noqa: F821
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True, highlight=False)
    table = Table(title="Accuracy on public notes", title_justify="left", header_style="bold")
    for column in ("hospital", "alone", "together", "ceiling without privacy", "its ε"):
        table.add_column(column, justify="left" if column == "hospital" else "right")
    for name, alone in outcome.alone.items():
        epsilon = outcome.epsilon.get(name)
        table.add_row(
            name,
            f"{alone:.1%}",
            f"[bold green]{outcome.together:.1%}[/]",
            f"{outcome.ceiling:.1%}",
            "–" if epsilon is None else f"{epsilon:.2f}",
        )
    console.print(table)
    console.print(f"{outcome.seconds:.0f} s. Run folder: {outcome.run}", soft_wrap=True)
    console.print(f"What each site saw and spent: {outcome.folder}", soft_wrap=True)
