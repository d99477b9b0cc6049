"""`privet docs`: what the pages of docs/ are made with."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.options import AsJson
from privet.common.cli.output import emit

app = typer.Typer(
    help="Generated text to try privet with; figures of the documentation.", no_args_is_help=True, rich_markup_mode=None
)

Folder = Annotated[Path, typer.Option("--folder", help="Where its files are written.")]


class TextKind(StrEnum):
    """Text that privet generates."""

    HOSPITAL = "hospital"
    BANK = "bank"


@app.command("reference")
def reference(
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write it there, not to standard output.")
    ] = None,
) -> None:
    """The reference of federation.toml and site.toml. From the models that read them."""
    from privet.common.config.reference import reference as page

    if write is None:
        print(page(), end="")
    else:
        write.write_text(page(), encoding="utf-8")


@app.command("text")
def text(
    kind: Annotated[TextKind, typer.Argument(help="Notes with a specialty, or complaints with a product.")],
    folder: Folder = Path("."),
    sites: Annotated[int, typer.Option("--sites", min=1, help="A file for each: north.csv, south.csv, …")] = 3,
    units: Annotated[int, typer.Option("--units", min=1, help="Patients or customers of each site.")] = 400,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other text.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Generated text to try things with. A file for each site, all.csv and public.csv; it describes nobody."""
    from privet.simulations.corpus import write_files

    made = write_files(kind.value, folder, num_sites=sites, num_units=units, seed=seed)
    emit(
        {"files": {str(path): rows for path, rows in made.items()}},
        [f"{path}: {rows:,} rows" for path, rows in made.items()],
        as_json,
    )


@app.command("noise")
def noise(
    folder: Folder = Path("."),
    units: Annotated[int, typer.Option("--units", min=4, help="Units that the site declares.")] = 2000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Expected batch, in units.")] = 64,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 40,
    local_steps: Annotated[int, typer.Option("--local-steps", min=1)] = 5,
    epsilon: Annotated[float, typer.Option("--epsilon", min=0.01)] = 8.0,
    delta: Annotated[float, typer.Option("--delta", min=1e-15, max=0.01)] = 1e-5,
    as_json: AsJson = False,
) -> None:
    """Plots of the noise that a plan needs. Against ε, rounds and batch, by the accountant alone; half a minute."""
    from privet.simulations.choosing.noise import Terms, write_noise

    terms = Terms(units=units, batch=batch, rounds=rounds, local_steps=local_steps, epsilon=epsilon, delta=delta)
    made = write_noise(folder, terms)
    emit({"files": [str(path) for path in made]}, [str(path) for path in made], as_json)


@app.command("accuracy")
def accuracy(
    folder: Folder = Path("."),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of `head` at each ε.")] = 3,
    lora_seeds: Annotated[int, typer.Option("--lora-seeds", min=1, help="Runs of `ffa` and `fedavg` at each ε.")] = 1,
    as_json: AsJson = False,
) -> None:
    """A plot of accuracy against ε by method. From small simulations on generated notes.

    Minutes; killed, it goes on where it was.
    """
    import sys

    from privet.simulations.choosing.accuracy import write_accuracy

    counts = {"head": seeds, "ffa": lora_seeds, "fedavg": lora_seeds}
    made = write_accuracy(folder, lambda line: print(line, file=sys.stderr, flush=True), seeds=counts)
    emit({"files": [str(path) for path in made]}, [str(path) for path in made], as_json)
