"""`privet simulate` once or under several seeds, and what it tells at the end."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from privet.common.config import Federation
    from privet.simulations.baselines import Baselines


def simulate_all(federation: "Federation", repeat: int, **settings: Any) -> Callable[[bool], None]:
    """Run; what comes back tells people the tables, and nothing with `--json`: the events have told all."""
    if repeat > 1:
        from privet.simulations.repeat import repeated

        done = repeated(federation, times=repeat, **settings)
        for run in done.runs:
            _draw(run.folder)
        found = done.runs[0].baselines
        return lambda as_json: None if as_json else _tell(found, done.table(), f"Runs: {done.folder}")
    from privet.simulations.run import simulate

    ran = simulate(federation, **settings)
    _draw(ran.folder)
    return lambda as_json: None if as_json else _tell(ran.baselines, None, "")


def _draw(folder: "Path | None") -> None:
    """The figures of a run's page as PNGs beside it."""
    if folder is not None:
        from privet.server.report import write_figures

        write_figures(folder)


def _tell(found: "Baselines | None", table: Any, last: str) -> None:
    from rich.console import Console

    from privet.simulations.baselines_words import sentences, summary

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if found is not None:
        if table is not None:
            console.print("Baselines of the first seed:")
        console.print(found.table())
        for line in [*sentences(found), *summary(found)]:
            console.print(line, soft_wrap=True)
    if table is not None:
        console.print(table)
        console.print(last, soft_wrap=True)
