"""A finished run as a researcher reads it: `run.history`, a DataFrame of one row a round, and the run in a few words.

Columns of `run.history`, in this order:

| column | dtype | meaning |
|---|---|---|
| round | int64 | the number of the round, from 1; the index is 0, 1, … |
| aggregated | bool | whether enough sound updates came; if not, the round changed nothing |
| accuracy, macro_f1, loss | float64 | on the public test set; NaN where the round was not judged |
| sites_accuracy, sites_error | float64 | the sites' pooled, noised accuracy, its standard error; NaN where none was |
| sites_truth | float64 | the same accuracy without noise, which only a simulation can know; NaN where none was |
| sites_clipped | float64 | of entities alone, likewise: share of the sites' units whose counts the bound clipped |
| cohort, answered, missing, failed | int64 | how many sites were asked, and how it ended |
| bytes_down, bytes_up | int64 | of arrays, to and from all sites |
| compression_error | float64 | relative L2 error of compressed updates, mean over sites; NaN where they are not |
| seconds | float64 | that the round took |
| epsilon_min, epsilon_max | float64 | spent so far: least and greatest over the sites; inf where there is no noise |

Where the task's score is no accuracy, its column has its own name: `micro_f1` and `sites_micro_f1` of several labels a
record, `entity_f1` and `sites_entity_f1` of entities (`score_key(task.score_name)`).

A site that was asked and did not refuse has spent, whether or not its answer came. The range is exact for up to two
mechanisms a budget; among more, of the sites of one budget that were asked equally often, those of the smallest and the
largest sampling rate stand for those between.
"""

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from privet.common.errors import Code, ConfigError
from privet.common.privacy.horizon import horizon_epsilon
from privet.common.privacy.statement import Statement
from privet.common.tasks.score import ACCURACY, score_key, score_of
from privet.server.card import loss_text

if TYPE_CHECKING:
    import pandas

    from privet.simulations.result import Simulation

DTYPES = {
    "round": "int64",
    "aggregated": "bool",
    "accuracy": "float64",
    "macro_f1": "float64",
    "loss": "float64",
    "sites_accuracy": "float64",
    "sites_error": "float64",
    "sites_truth": "float64",
    "cohort": "int64",
    "answered": "int64",
    "missing": "int64",
    "failed": "int64",
    "bytes_down": "int64",
    "bytes_up": "int64",
    "compression_error": "float64",
    "seconds": "float64",
    "epsilon_min": "float64",
    "epsilon_max": "float64",
}
_SPARED = {str(code) for code in Code} - {str(Code.OK), str(Code.UNAVAILABLE), str(Code.BAD_REQUEST)}
_SHOWN = 10  # rounds of a notebook's table

Row = Mapping[str, Any]


def dtypes(score: str, *, clips: bool = False) -> dict[str, str]:
    """Columns and their types where the task's score has this name; clips: whether its counts are clipped."""
    key = score_key(score)
    names = {ACCURACY: key, f"sites_{ACCURACY}": f"sites_{key}"}
    found: dict[str, str] = {}
    for name, kind in DTYPES.items():
        found[names.get(name, name)] = kind
        if clips and name == "sites_truth":
            found["sites_clipped"] = kind
    return found


def frame(
    rounds: Iterable[Row],
    statements: Mapping[str, Statement],
    truth: Mapping[int, float],
    *,
    score: str = ACCURACY,
    clipped: Mapping[int, float] | None = None,
) -> "pandas.DataFrame":
    """The DataFrame of the rounds' events, as the module's table says.

    score: the name of the task's. clipped: by round, as `truth`; None where the task clips no counts.
    Raises: ConfigError where pandas is missing.
    """
    rows = list(rounds)
    spent = spent_range(rows, statements)
    columns = dtypes(score, clips=clipped is not None)
    lines = []
    for row, (least, most) in zip(rows, spent, strict=True):
        line = _line(row, truth, score_key(score)) | {"epsilon_min": least, "epsilon_max": most}
        lines.append(line | {"sites_clipped": (clipped or {}).get(line["round"], math.nan)})
    return pandas_library().DataFrame(lines, columns=list(columns)).astype(columns)


def pandas_library() -> Any:
    """pandas, imported on first use. Raises: ConfigError where it is missing."""
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "tables need pandas, which is not installed.", mend='pip install "privet[simulation]"'
        ) from error
    return pandas


def _line(row: Row, truth: Mapping[int, float], score: str) -> dict[str, Any]:
    public, sites = row["public"] or {}, row["sites"] or {}
    number = int(row["round"])
    return {
        "round": number,
        "aggregated": row["aggregated"],
        score: _number(score_of(public)),
        **{name: _number(public.get(name)) for name in ("macro_f1", "loss")},
        f"sites_{score}": _number(score_of(sites)),
        "sites_error": _number(sites.get("error")),
        "sites_truth": truth.get(number, math.nan),
        **{name: len(row[name]) for name in ("cohort", "answered", "missing", "failed")},
        **{name: row[name] for name in ("bytes_down", "bytes_up", "seconds")},
        "compression_error": _number(row.get("compression_error")),
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def spent_range(rows: Sequence[Row], statements: Mapping[str, Statement]) -> list[tuple[float, float]]:
    """Least and greatest epsilon that the sites have spent after each of the rounds; nan where no site agreed."""
    trained: Counter[str] = Counter()
    measured: Counter[str] = Counter()
    found = []
    for row in rows:
        trained.update(_asked(row["cohort"], row["failed"]))
        asked = row.get("evaluation") or {"answered": (), "missing": (), "failed": {}}
        measured.update(_asked([*asked["answered"], *asked["missing"], *asked["failed"]], asked["failed"]))
        found.append(_range(statements, trained, measured))
    return found


def _asked(names: Iterable[str], failed: Mapping[str, str]) -> list[str]:
    """Those that did not refuse before they spent anything."""
    return [name for name in names if failed.get(name) not in _SPARED]


def _range(
    statements: Mapping[str, Statement], trained: Mapping[str, int], measured: Mapping[str, int]
) -> tuple[float, float]:
    alike: dict[tuple[int, int, float | None, float], list[Statement]] = {}
    for name, stated in statements.items():
        budget = None if stated.epsilon is None else round(stated.epsilon, 1)
        key = trained.get(name, 0), measured.get(name, 0), budget, stated.delta
        alike.setdefault(key, []).append(stated)
    costs = []
    for (rounds, evaluations, *_), group in alike.items():
        group.sort(key=lambda stated: stated.sample_rate)
        costs += [_spent(stated, rounds, evaluations) for stated in (group[0], group[-1])]
    return (min(costs), max(costs)) if costs else (math.nan, math.nan)


def _spent(stated: Statement, rounds: int, evaluations: int) -> float:
    if rounds == evaluations == 0:
        return 0.0
    if stated.epsilon is None:
        return math.inf
    done = replace(stated.horizon, rounds=rounds, num_evaluations=evaluations)
    return horizon_epsilon([done], stated.delta)


def in_words(run: "Simulation") -> str:
    """One line, as a notebook or a debugger shows a run."""
    score = "not judged" if math.isnan(run.score) else f"public {run.score_name} {run.score:.3f}"
    place = f", {run.folder}" if run.folder is not None else ""
    return f"<Simulation of {run.plan.name}: {_progress(run)}; {score}; {_privacy(run)}{place}>"


def _progress(run: "Simulation") -> str:
    done = sum(bool(row["aggregated"]) for row in run.rounds)
    return f"{done} of {run.plan.training.rounds} rounds, {len(run.statements)} sites"


def _privacy(run: "Simulation") -> str:
    losses = [math.inf if s.epsilon is None else s.epsilon for s in run.statements.values()]
    if not losses:
        return "no site took part"
    span = loss_text(max(losses)) if min(losses) == max(losses) else f"{loss_text(min(losses))} to {max(losses):.2f}"
    return f"no guarantee (a simulation), ε {span}" if math.isfinite(max(losses)) else "without privacy"


def as_html(run: "Simulation") -> str:
    """What a notebook draws: the outcome, and the last rounds. It takes the notebook's own colours."""
    table = run.history
    score = score_key(run.score_name)
    columns = ["round", score, "macro_f1", "loss", "answered", "missing", "failed", "seconds", "epsilon_max"]
    further = (name for name in (f"sites_{score}", "sites_clipped") if name in table and table[name].notna().any())
    columns[4:4] = further
    shown = table[columns].tail(_SHOWN).to_html(index=False, na_rep="–", float_format=lambda value: f"{value:.3f}")
    left_out = len(table) - _SHOWN
    more = f"<p>The last {_SHOWN} of {len(table)} rounds; all of them: <code>run.history</code>.</p>"
    words = [f"<p><b>{html.escape(run.plan.name)}</b>: {_progress(run)}; {html.escape(_privacy(run))}.</p>"]
    if not math.isnan(run.score):
        words.append(f"<p>Public {run.score_name} of the adapter that is kept: <b>{run.score:.3f}</b>.</p>")
    if run.baselines is not None:
        words.append(run.baselines.to_html())
    if run.folder is not None:
        words.append(f"<p>Run folder: <code>{html.escape(str(run.folder))}</code></p>")
    return "".join([*words, shown, more if left_out > 0 else ""])
