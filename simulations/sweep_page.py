"""A sweep for people: a table in the terminal; sweep.html, sweep.csv, sweep.json and PNGs in its folder."""

import csv
import io
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privet.common.tasks.score import key_words
from privet.common.terminal import printable
from privet.server.card import loss_text
from privet.simulations.sweep_cost import NOT_FREE
from privet.simulations.sweep_plots import plots
from privet.simulations.sweep_space import setting_text
from privet.simulations.sweep_store import Store, json_text

if TYPE_CHECKING:
    from rich.table import Table

    from privet.simulations.sweep_run import Sweep, Trial

_MAX_SHOWN = 30  # trials of the terminal's table


def write_all(found: "Sweep", store: Store) -> None:
    """Put table, page and pictures into the sweep's folder. Raises: RunError; ConfigError without matplotlib."""
    store.write("sweep.json", json_text(found.to_json()))
    store.write("sweep.csv", csv_text(found))
    drawn = plots(found)
    for plot in drawn:
        store.write(f"{plot.name}.png", plot.png)
    figures = [(plot.title, Markup(plot.svg)) for plot in drawn]
    page = _environment().get_template("sweep.html.j2").render(found=found, figures=figures, not_free=NOT_FREE)
    store.write("sweep.html", page)


def csv_text(found: "Sweep") -> str:
    """One line a trial, the best first; an empty field is no value."""
    rows, stream = found.rows(), io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["rank"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def terminal_table(found: "Sweep") -> "Table":
    """For rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Trials by {key_words(found.metric)}", title_justify="left", header_style="bold")
    table.caption, table.caption_justify = NOT_FREE, "left"
    table.add_column("#", justify="right")
    for axis in found.axes:
        table.add_column(axis.key)
    for name in (key_words(found.metric), "n", "ε", "seconds"):
        table.add_column(name, justify="right")
    for rank, trial in enumerate(found.trials[:_MAX_SHOWN], start=1):
        settings = [Text(printable(setting_text(trial.settings[axis.key]))) for axis in found.axes]
        table.add_row(str(rank), *settings, metric_text(trial, found.metric), str(len(trial.runs)), *_last(trial))
    return table


def _last(trial: "Trial") -> tuple[str, str]:
    return epsilon_text(trial), f"{trial.seconds:.1f}"


def metric_text(trial: "Trial", metric: str) -> str:
    """Mean ± sample standard deviation."""
    value = trial.spread(metric)
    if value is None:
        return "failed" if trial.error else "–"
    return f"{value.mean:.3f}" + ("" if value.sd is None else f" ± {value.sd:.3f}")


def epsilon_text(trial: "Trial") -> str:
    """Of the site that pays most."""
    stated = trial.statement
    return "–" if stated is None else loss_text(stated.epsilon)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privet.simulations"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"setting": setting_text, "metric": metric_text, "epsilon": epsilon_text}
    environment.filters |= filters | {"words": key_words}
    return environment
