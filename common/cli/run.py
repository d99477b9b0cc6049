"""`privet check`, `server`, `client` and `simulate`."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privet.common.cli.options import AsJson, FederationFile, Set, SiteFile

if TYPE_CHECKING:
    from privet.common.config import Federation
    from privet.server.report.tensorboard import TensorBoard


def check(
    site_file: SiteFile,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="A federation.toml or invite.toml.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write a page to be signed before training (HTML); with --plan."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave the network alone: before the firewall is opened.")
    ] = False,
    as_json: AsJson = False,
    assignments: Set = None,
) -> None:
    """Look at a site's data, files, network and machine. Before the client connects; trains nothing."""
    from privet.client.check import check_site
    from privet.common.cli.output import emit

    document, lines = check_site(site_file, plan, assignments or (), page=report, offline=offline)
    emit(document, lines, as_json)
    if document["verdict"] == "failed":
        raise typer.Exit(2)


def server(
    federation_file: FederationFile,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest run of this plan that stopped or was killed.")
    ] = False,
    alone: Annotated[
        bool, typer.Option("--unattended", help="For a service: resume, begin, or end where the plan is done.")
    ] = False,
    rehearse: Annotated[
        int | None,
        typer.Option(
            "--rehearse", metavar="N", min=1, max=10, help="Rehearse N rounds on generated text; nothing is spent."
        ),
    ] = None,
    as_json: AsJson = False,
    assignments: Set = None,
) -> None:
    """Run a federation's server. It waits for the sites, aggregates their updates, writes the run folder."""
    from privet.common.config import load_federation

    federation = load_federation(federation_file, assignments or ())
    if resume + alone + (rehearse is not None) > 1:
        from privet.common.errors import ConfigError

        what = "--resume, --unattended and --rehearse exclude each other."
        raise ConfigError(what, where="privet server", mend="give one of them.")
    if rehearse is not None:
        _rehearse(federation, rehearse, as_json)
    from privet.server.app import run_server
    from privet.server.live import watch

    with stopped_by_signal(), watch(f"privet server {federation.name}", as_json=as_json) as listener:
        run_server(federation, federation_file, listener, resume=resume, alone=alone)
    _leave()


def _rehearse(federation: "Federation", rounds: int, as_json: bool) -> None:
    from privet.server.live import watch
    from privet.server.rehearsal_run import rehearse

    title = f"privet server {federation.name} (rehearsal)"
    with stopped_by_signal(), watch(title, as_json=as_json) as listener:
        rehearse(federation, rounds, listener)
    _leave()


def client(site_file: SiteFile, as_json: AsJson = False, assignments: Set = None) -> None:
    """Run a site's agent beside its data until the federation is over."""
    from privet.common.config import load_site

    site = load_site(site_file, assignments or ())
    from privet.client.app import run_client
    from privet.client.live import watch

    with watch(site.name, as_json=as_json) as listener:
        run_client(site, listener)
    _leave()


def simulate(
    federation_file: FederationFile,
    sites: Annotated[
        int | None, typer.Option("--sites", min=1, help="How many virtual sites; not needed with column:NAME.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="A CSV, TSV, JSON lines or Parquet file.")] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="iid, dirichlet:ALPHA or column:NAME.", show_default="iid")
    ] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            "--epsilon",
            help="Of each site; inf for none; several, by comma, are given out in turn.",
            show_default="8",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="local|ray", help="Processes of this machine, or Ray actors.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="HOST:PORT", help="Of a Ray cluster; else one starts here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="How many; one for each core by default, 0 for none.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda|auto", help="Where the workers compute; else as the file says."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Of draws, noise, partition and cohorts, in place of simulation.seed."),
    ] = None,
    repeat: Annotated[
        int, typer.Option("--repeat", metavar="R", min=1, help="Run under R seeds, and tell mean and spread.")
    ] = 1,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Compare with every site alone and with all data pooled.")
    ] = False,
    alone: Annotated[
        int, typer.Option("--baseline-sites", metavar="K", min=1, help="Simulate at most K sites alone; seed draws.")
    ] = 20,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a simulation that was stopped: its run folder."),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write the rounds' numbers for TensorBoard.")
    ] = None,
    as_json: AsJson = False,
    assignments: Set = None,
) -> None:
    """Run a federation's plan over virtual sites on this machine. No guarantee: for deciding, not for training."""
    from privet.common.config import load_federation

    given = list(assignments or ())
    if data is not None:
        given.append(f"simulation.data={_toml(str(data.resolve()))}")
    if partition is not None:
        given.append(f"simulation.partition={_toml(partition)}")
    if seed is not None:
        given.append(f"simulation.seed={seed}")
    begun = None
    if resume is not None:
        from privet.simulations.resume import read_begun

        begun = read_begun(resume)
        given = [*begun.assignments, *given]
        if repeat > 1:
            from privet.common.errors import ConfigError

            raise ConfigError("one run goes on, not several.", where="--repeat", mend="resume each of them by itself.")
    federation = load_federation(federation_file, given)
    sites = sites or (begun.sites if begun else sites_of(federation))
    budgets = list(begun.epsilon) if begun and epsilon is None else budgets_of(epsilon or "8")
    if not as_json:
        print("Reading the texts and starting the workers …", file=sys.stderr, flush=True)
    from privet.common.cli.repeat import simulate_all
    from privet.simulations.live import watch
    from privet.simulations.progress import told_to
    from privet.simulations.resume import resumable

    command = "privet " + shlex.join(sys.argv[1:])
    settings: dict[str, Any] = {
        **{"sites": sites, "epsilon": budgets, "baselines": baselines and alone, "command": command},
        **{"engine": engine, "ray_address": ray_address, "workers": workers, "device": device},
    }
    if resume is not None:
        settings["resume"] = resume
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signal())
        folders = stack.enter_context(resumable(command, again=resume is not None))
        boards = [stack.enter_context(_tensorboard(tensorboard))] if tensorboard is not None else []
        view = stack.enter_context(watch(f"privet simulate {federation.name} (no guarantee)", as_json=as_json))
        listener, runs = told_to(view, folders, *boards), federation.server.runs
        told = simulate_all(federation, repeat, on_event=listener, runs=runs, **settings)
    told(as_json)


def sites_of(federation: "Federation") -> int:
    """How many sites where the command does not say: 0, as many as there are values, where a column makes them.

    Raises: ConfigError for another partition.
    """
    from privet.common.errors import ConfigError

    if federation.simulation.partition.startswith("column:"):
        return 0
    raise ConfigError("how many virtual sites?", where="--sites", mend="give a number, as --sites 10.")


def _tensorboard(folder: Path) -> "TensorBoard":
    from privet.server.report.tensorboard import TensorBoard

    return TensorBoard(folder)


def budgets_of(text: str) -> list[float]:
    from privet.common.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"got {text!r}.", where="--epsilon", mend="give numbers such as 8, inf or 8,4,1.") from None


def _toml(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


@contextmanager
def stopped_by_signal() -> Iterator[None]:
    """Ctrl-C and SIGTERM unwind, so that connections, files and child processes are closed.

    Raises: RunError where one came.
    """

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        from privet.common.errors import RunError

        raise RunError("stopped by the operator.", mend="start it again.") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _leave() -> None:
    from privet.common.cli import leave

    leave(0)
