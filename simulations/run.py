"""`simulate`: a plan over N virtual sites on this machine or a cluster, by the trainer, methods and strategy of a
deployment."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from privet.common.config import SimulationSpec
from privet.common.errors import ConfigError
from privet.common.live import Listener
from privet.simulations.data import SimulationData
from privet.simulations.engines import EngineName, open_engine
from privet.simulations.engines.work import Device
from privet.simulations.inputs import PlanLike, resolve, start_of
from privet.simulations.result import Simulation
from privet.simulations.resume import Begun, check_begun, read_begun
from privet.simulations.simulator import Simulator

if TYPE_CHECKING:
    import pandas


def simulate(
    plan: PlanLike,
    data: "SimulationData | pandas.DataFrame | Path | str | None" = None,
    *,
    sites: int = 10,
    partition: str | None = None,
    epsilon: float | Sequence[float] = 8.0,
    seed: int | None = None,
    text: str | None = None,
    label: str | None = None,
    unit: str | None = None,
    spec: SimulationSpec | None = None,
    baselines: bool | int = False,
    on_event: Listener | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
    command: str = "",
    engine: EngineName = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    device: Device | None = None,
    resume: Path | None = None,
    init: Path | None = None,
    init_labels: Mapping[str, str] | None = None,
) -> Simulation:
    """Run `plan` over virtual sites.

    plan: a Plan; a Federation, whose [simulation] table is then the default of `spec`; or the path of federation.toml.
    data: a DataFrame or a file with columns `text`, `label` and `unit` ("record": each row is one), or SimulationData;
    None reads what `spec` says, or generates text. epsilon: of each site, one number or several given out in turn; inf
    is no privacy. sites: 0 with the partition `column:NAME` is as many as there are values. seed, partition, text,
    label, unit: set these keys of `spec`. baselines: compare with every site alone (a number: with so many of them) and
    with all data pooled. runs: where to write a run folder; folder: its own path instead; None and None write nothing.
    engine: worker processes of this machine, or Ray actors, of the cluster at `ray_address` where one is given.
    workers: how many; None is one for each core, 0 computes in this process, which starts at once and is right for a
    few sites. device: None is what `spec` says. No result depends on who computes, but for the last digits. resume: the
    run folder of a simulation that was stopped, to go on with; all else as it was then. The result is that of an
    undisturbed run. init: the run folder, or its adapter/, that `method.init` is the digest of; init_labels: each new
    label's earlier one, "" for none; else as a Federation's [server] table says.
    Raises: ConfigError, DataError, ModelError; RunError where too few sites can take part, or a worker ends.
    """
    if device is not None and device not in get_args(Device):
        raise ConfigError(f"got {device!r}.", where="--device", mend='give "cpu", "cuda" or "auto".')
    begin: dict[str, Any] = start_of(plan)
    if init is not None:
        begin = {"init": init, "init_labels": init_labels}
    with open_engine(engine, workers, ray_address) as chosen:  # its workers load while the data is read
        plan, data, spec = resolve(plan, data, spec, partition=partition, seed=seed, text=text, label=label, unit=unit)
        if resume is not None:
            check_begun(resume, plan, Begun.of(plan, sites or read_begun(resume).sites, epsilon, spec))
        if device is not None:
            spec = spec.model_copy(update={"device": device})
        records = data.sites(spec.partition, plan.task, num_sites=sites, seed=spec.seed)
        simulator = Simulator(plan, data, chosen, spec=spec, **begin)
        prepared = simulator.prepare(records)
        ran = simulator.run(
            prepared,
            epsilon=epsilon,
            spec=spec,
            on_event=on_event,
            runs=runs,
            at=folder,
            command=command or shlex.join(sys.argv),
            last=True,
            resume=resume,
        )
    if not baselines:
        return ran
    from privet.simulations.baselines import NUM_ALONE, compare

    most = NUM_ALONE if baselines is True else baselines
    with open_engine(engine, workers, ray_address) as chosen:
        found = compare(
            plan,
            data,
            ran,
            records,
            epsilon=epsilon,
            spec=spec,
            most=most,
            on_event=on_event,
            engine=chosen,
            start=begin,
        )
    return replace(ran, baselines=found)
