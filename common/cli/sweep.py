"""`privet sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.common.cli.options import AsJson, FederationFile, Set

if TYPE_CHECKING:
    from privet.simulations.sweep_run import Sweep


def sweep(
    federation_file: FederationFile,
    sites: Annotated[
        int | None, typer.Option("--sites", min=1, help="How many virtual sites; not needed with column:NAME.")
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option("--grid", metavar="KEY=V,V", help="Values of a key of the plan; repeatable.")
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="KEY=A..B[:log]", help="A range of a key, with --random; repeatable."),
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", min=1, help="Draw N trials instead of all combinations.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", metavar="R", min=1, help="Run each trial under R seeds.")] = 1,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="In place of simulation.seed; draws trials.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file.")] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="iid, dirichlet:ALPHA or column:NAME.", show_default="iid")
    ] = None,
    epsilon: Annotated[
        str, typer.Option("--epsilon", help="Of each site; inf for none; several, by comma, are given out in turn.")
    ] = "8",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="What trials are ranked by: score (the task's: accuracy, micro F1, entity F1), macro_f1, loss or "
            "sites_score.",
        ),
    ] = "score",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Of the results.", show_default="one in server.runs")
    ] = None,
    as_json: AsJson = False,
    assignments: Set = None,
) -> None:
    """Simulate many settings of a plan and rank them. The same command goes on where it was stopped.

    Tuning on private data is not free: every trial that runs at real sites spends their budgets, and a setting chosen
    by results on private records tells of them. Choose on public or generated data, and run the one plan. At the end
    it says what the trials would have cost at the sites.
    """
    import json
    import shlex
    import sys

    from privet.common.cli.output import emit
    from privet.common.cli.run import budgets_of, sites_of, stopped_by_signal
    from privet.common.config import load_federation
    from privet.common.errors import RunError

    given = list(assignments or ())
    for key, value in (("data", None if data is None else str(data.resolve())), ("partition", partition)):
        if value is not None:
            given.append(f"simulation.{key}={json.dumps(value, ensure_ascii=False)}")
    federation = load_federation(federation_file, given)
    from privet.simulations.sweep_run import sweep as run
    from privet.simulations.sweep_space import parse_grid, parse_range

    with stopped_by_signal():
        found = run(
            federation,
            axes=[*map(parse_grid, grid or ()), *map(parse_range, ranges or ())],
            random=random,
            repeat=repeat,
            seed=seed,
            sites=sites or sites_of(federation),
            epsilon=budgets_of(epsilon),
            metric=metric,
            runs=federation.server.runs,
            folder=folder,
            on_event=_tell,
            command="privet " + shlex.join(sys.argv[1:]),
        )
    if as_json:
        emit(found.to_json(), (), True)
    else:
        _show(found)
    if not any(trial.runs for trial in found.trials):
        raise RunError("no trial finished.", where=found.trials[0].error, mend="correct what every trial met.")


def _tell(event: dict[str, Any]) -> None:
    """A line of progress."""
    import sys

    from privet.common.tasks.score import score_key
    from privet.common.terminal import printable

    settings = ", ".join(f"{key}={value}" for key, value in event["settings"].items())
    name = event["score_name"]
    score = event["final"].get(score_key(name))
    result = event["error"] or ("not judged" if score is None else f"public {name} {score:.3f}")
    before = " (done before)" if event["done_before"] else ""
    line = f"trial {event['trial']} of {event['of']}, seed {event['seed']}: {settings}: {result}{before}"
    print(printable(line), file=sys.stderr, flush=True)


def _show(found: "Sweep") -> None:
    from rich.console import Console

    from privet.simulations.sweep_page import terminal_table

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(terminal_table(found))
    if found.cost is not None:
        console.print(found.cost.words, soft_wrap=True)
    if found.folder is not None:
        console.print(f"Page: {(found.folder / 'sweep.html').resolve()}", soft_wrap=True)
