"""report.html: one page that tells a run's result, privacy, sites and cost; it loads nothing from anywhere."""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from privet.common.config import Plan
from privet.common.privacy.statement import Statement
from privet.server.card import grouped_words, loss_text, number_text
from privet.server.curve import draw
from privet.server.export import plan_toml
from privet.server.judgement import kept_round

_MAX_ROWS = 200  # rounds listed one by one
_VERSIONS = ("privet", "torch", "transformers", "peft", "opacus", "dp-accounting", "flwr", "numpy")


@dataclass(frozen=True)
class SiteRow:
    """One site's line: what it states and how often it answered."""

    name: str
    statement: Statement | None
    answered: int
    missed: int
    reasons: str  # codes, each with its number of rounds


def report_html(
    plan: Plan,
    *,
    history: Sequence[Mapping[str, Any]],
    statements: Mapping[str, Statement],
    simulated: bool,
    command: str,
    final: Mapping[str, Any] | None,
) -> str:
    """The page's text.

    history: the events "round" of metrics.jsonl, in order.
    final: public metrics of the adapter that the run leaves behind, where there is a public file.
    command: what was typed to start the run.
    """
    judged = [(int(row["round"]), row["public"]) for row in history if row["public"]]
    measured = [row for row in history if row.get("evaluation")]
    at_sites = {int(row["round"]): row["sites"] for row in measured if row["sites"]}
    known = {number: sites for number, sites in at_sites.items() if sites["accuracy"] is not None}
    curve = draw(
        [(title, [(n, float(public[key])) for n, public in judged]) for key, title in _CURVES]
        + [(_AT_SITES, [(n, float(sites["accuracy"])) for n, sites in known.items()])],
        [int(row["round"]) for row in history if not row["aggregated"]],
        {_AT_SITES: {n: float(sites["error"]) for n, sites in known.items()}},
    )
    kept = kept_round(history, plan.evaluation)
    seconds = [float(row["seconds"]) for row in history]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            plan=plan,
            plan_toml=plan_toml(plan),
            history=_thinned(history),
            num_rows=len(history),
            rounds_done=sum(bool(row["aggregated"]) for row in history),
            sites=_sites(history, statements),
            losses=[math.inf if s.epsilon is None else s.epsilon for s in statements.values()],
            unguaranteed=[name for name, statement in sorted(statements.items()) if not statement.guarantee],
            words=grouped_words(statements),
            simulated=simulated,
            command=command,
            final=final,
            curve=curve,
            measured=measured,
            kept=kept and kept["round"],
            at_sites=kept and kept.get("sites"),
            seconds=sum(seconds),
            median_seconds=median(seconds) if seconds else 0.0,
            bytes_down=sum(int(row["bytes_down"]) for row in history),
            bytes_up=sum(int(row["bytes_up"]) for row in history),
            versions=_versions(),
        )
    )


_CURVES = (("accuracy", "accuracy"), ("macro_f1", "macro F1"))
_AT_SITES = "accuracy at the sites"


def _sites(history: Sequence[Mapping[str, Any]], statements: Mapping[str, Statement]) -> list[SiteRow]:
    answered: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    for row in history:
        answered.update(row["answered"])
        for name in row["missing"]:
            reasons.setdefault(name, Counter())["no answer"] += 1
        for name, code in row["failed"].items():
            reasons.setdefault(name, Counter())[str(code)] += 1
    return [
        SiteRow(
            name,
            statements.get(name),
            answered[name],
            reasons[name].total() if name in reasons else 0,
            ", ".join(f"{code} ×{num}" for code, num in sorted(reasons.get(name, Counter()).items())),
        )
        for name in sorted({*statements, *answered, *reasons})
    ]


def _thinned(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """At most _MAX_ROWS rounds, evenly spread; the last is always there."""
    stride = max(1, math.ceil(len(history) / _MAX_ROWS))
    return [row for i, row in enumerate(history) if (len(history) - 1 - i) % stride == 0]


def _versions() -> list[tuple[str, str]]:
    found = [("Python", sys.version.split()[0])]
    for name in _VERSIONS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def size_text(num_bytes: int) -> str:
    """Bytes in a unit of their size.

    >>> size_text(950), size_text(1_180_000)
    ('950 B', '1.2 MB')
    """
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration_text(0.42), duration_text(75), duration_text(7_384)
    ('0.42 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("privet.server"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"loss": loss_text, "num": number_text, "bytes": size_text, "duration": duration_text}
    return environment
