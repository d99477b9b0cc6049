"""The same simulation under several seeds: how far its figures move by chance alone.

A run's seed (`simulation.seed`) decides the generated text or, where no column says so, which units are the public test
set; the partition; each site's held-out units; draws and noise; and whom a cohort holds. The plan, and with it the
initial weights (`method.seed`), stay. Each run is the one that `privet simulate --seed N` gives.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privet.common.errors import ConfigError, RunError
from privet.common.live import Listener
from privet.common.tasks.score import key_words, metric_keys, score_of
from privet.server.checkpoint import write_durably
from privet.server.judgement import kept_round
from privet.simulations.history import pandas_library
from privet.simulations.inputs import PlanLike, read_plan, start_of
from privet.simulations.result import Simulation
from privet.simulations.run import simulate

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

    from privet.common.config import SimulationSpec
    from privet.simulations.baselines import Baselines
    from privet.simulations.data import SimulationData


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (divisor n - 1; None of a single value) of `n` runs' values."""

    mean: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.sd is None else f" ± {self.sd:.3f}") + f" (n {self.n})"


@dataclass(frozen=True, repr=False)
class Repeated:
    """Runs by ascending seed. `final`: of the rounds that are kept; `history`: by round; folder: the runs' parent."""

    runs: Sequence[Simulation]
    seeds: Sequence[int]
    final: Mapping[str, Spread]
    folder: Path | None = None

    @property
    def history(self) -> "pandas.DataFrame":
        """One row a round: `round`, and for each metric that was measured METRIC_mean, METRIC_sd (NaN for one value)
        and METRIC_n, of the runs that measured it."""
        return pandas_library().DataFrame(self.by_round())

    def by_round(self) -> list[dict[str, Any]]:
        """The rows of `history`."""
        tables = [run.history for run in self.runs]
        rows = []
        for number in sorted({number for table in tables for number in table["round"]}):
            row: dict[str, Any] = {"round": int(number)}
            for metric in (*metric_keys(self.runs[0].score_name), _TRUTH):
                found = spread(value for table in tables for value in table[metric][table["round"] == number])
                if found is not None:
                    sd = math.nan if found.sd is None else found.sd
                    row |= {f"{metric}_mean": found.mean, f"{metric}_sd": sd, f"{metric}_n": found.n}
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types, for a file that may be passed on: without the sites' accuracy free of noise."""
        clean = [
            {name: None if value != value else value for name, value in row.items() if not name.startswith(_TRUTH)}
            for row in self.by_round()
        ]
        return {
            "format": 1,
            "simulated": True,
            "seeds": list(self.seeds),
            "final": {name: asdict(found) for name, found in self.final.items() if name != _TRUTH},
            "rounds": clean,
            "runs": [
                {"seed": seed, "folder": None if run.folder is None else str(run.folder), "final": _told(run)}
                for seed, run in zip(self.seeds, self.runs, strict=True)
            ],
        }

    def table(self) -> "Table":
        """For a terminal."""
        from rich.table import Table

        title = f"Mean ± sample standard deviation, seeds {self.seeds[0]} to {self.seeds[-1]}"
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in ("metric", "mean", "sd", "n", *(f"seed {seed}" for seed in self.seeds[:_MAX_SHOWN])):
            table.add_column(name, justify="left" if name == "metric" else "right")
        each = [final_metrics(run) for run in self.runs[:_MAX_SHOWN]]
        for name, found in self.final.items():
            own = [f"{row[name]:.3f}" if row.get(name) is not None else "–" for row in each]
            sd = "–" if found.sd is None else f"{found.sd:.3f}"
            table.add_row(_title(name), f"{found.mean:.3f}", sd, str(found.n), *own)
        return table

    def __repr__(self) -> str:
        told = ", ".join(f"{_title(name)} {found}" for name, found in self.final.items()) or "nothing was judged"
        return f"<Repeated {self.runs[0].plan.name}: seeds {self.seeds[0]} to {self.seeds[-1]}; {told}>"


_TRUTH = "sites_truth"
_MAX_SHOWN = 10  # runs that have a column


def _title(name: str) -> str:
    return "truth at the sites" if name == _TRUTH else key_words(name)


def _told(run: Simulation) -> dict[str, float | None]:
    return {name: value for name, value in final_metrics(run).items() if name != _TRUTH}


def repeated(
    plan: PlanLike,
    data: "SimulationData | pandas.DataFrame | Path | str | None" = None,
    *,
    times: int = 3,
    seed: int | None = None,
    spec: "SimulationSpec | None" = None,
    on_event: Listener | None = None,
    runs: Path | None = None,
    **settings: Any,
) -> Repeated:
    """Simulate under `times` seeds: `seed` (else the one that `spec` says) and those after it.

    settings: the other arguments of `simulate`. runs: where to make one folder, in which each run has its own,
    `seed-N`, and summary.json tells of them all. Data that are given as such are the same in all runs; what is read or
    generated is read or generated anew under each seed.
    Raises: as `simulate`; ConfigError where `times` is below 1.
    """
    if times < 1:
        raise ConfigError(f"got {times}.", where="--repeat", mend="give a number of runs.")
    settings = start_of(plan) | settings
    plan, spec = read_plan(plan, spec)
    first = spec.seed if seed is None else seed
    folder = None if runs is None else runs / f"{plan.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-x{times}"
    seeds = range(first, first + times)
    tell: Listener = on_event or (lambda _event: None)
    found = []
    for index, number in enumerate(seeds):
        tell({"event": "repeat", "run": index + 1, "of": times, "seed": number})
        place = None if folder is None else folder / f"seed-{number}"
        found.append(simulate(plan, data, seed=number, spec=spec, on_event=on_event, folder=place, **settings))
    done = Repeated(found, list(seeds), summarised(found), folder)
    if folder is not None:
        _write(folder / "summary.json", done.to_json())
    tell({"event": "repeated", **done.to_json(), "folder": None if folder is None else str(folder.resolve())})
    return done


def summarised(runs: Sequence[Simulation]) -> dict[str, Spread]:
    """Of every metric that some run ended with; where there are baselines, theirs on the public test set as well."""
    rows = [final_metrics(run) for run in runs]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: found for name in names if (found := spread(row.get(name) for row in rows)) is not None}


def final_metrics(run: Simulation) -> dict[str, float | None]:
    """Of the round that is kept, by `metric_keys` and "sites_truth"; and `alone` (a mean), `pooled`, `no_privacy`,
    `gain`."""
    score, macro, loss, at_sites = metric_keys(run.score_name)
    final = run.final or {}
    values = {score: score_of(run.final), macro: final.get(macro), loss: final.get(loss)}
    found: dict[str, float | None] = {
        name: float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        for name, value in values.items()
    }
    kept = kept_round(run.rounds, run.plan.evaluation)
    if kept is not None and kept["evaluation"]:
        found[at_sites] = score_of(kept["sites"])
        found[_TRUTH] = run.truth.get(kept["round"])
    if run.baselines is not None:
        found |= _of_baselines(run.baselines)
    return found


def _of_baselines(found: "Baselines") -> dict[str, float | None]:
    alone = [row.alone.public for row in found.rows if row.alone is not None and row.alone.public is not None]
    gains = [row.gain for row in found.rows if row.gain is not None]
    return {
        "alone": statistics.fmean(alone) if alone else None,
        "pooled": found.pooled,
        "no_privacy": found.no_privacy,
        "gain": statistics.fmean(gains) if gains else None,
    }


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are finite numbers; None where none is.

    >>> str(spread([0.5, 0.75, None, 0.25]))
    '0.500 ± 0.250 (n 3)'
    """
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _write(path: Path, document: Mapping[str, Any]) -> None:
    try:
        write_durably(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise RunError(f"cannot be written ({error}).", where=str(path), mend="free space.") from None
