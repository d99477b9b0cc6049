"""Baselines for people: one sentence a site, a table for a terminal and one for a notebook."""

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from privet.common.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table

    from privet.simulations.baselines import Baselines, SiteRow

SEEN_BY_SIMULATION = (
    "`own` is the score on a site's held-out units without noise: only a simulation can know it. It is computed "
    "from the sites' records; where these are private, so is this file."
)
_COLUMNS = ("site", "units", "ε", "alone", "federation", "pooled", "no privacy")


def site_words(row: "SiteRow", takes_part: bool) -> str:
    """Whether the federation helps this site, in one sentence. Two standard errors make a difference clear."""
    if row.alone is None:
        part = "" if takes_part else ", nor take part in the federation"
        model = percent(row.federation.own if row.federation.own is not None else row.federation.public)
        return (
            f"cannot train alone{part}: its units are fewer than the plan's batch; the federation's model has {model}."
        )
    if row.gain is None or row.error is None:
        return "cannot be judged: there are no held-out units and no public test set."
    points, spread = 100 * row.gain, 200 * row.error
    if abs(row.gain) <= 2 * row.error:
        more = "more" if points >= 0 else "less"
        return f"no clear difference: {abs(points):.1f} points {more} by joining (± {spread:.1f})."
    if points > 0:
        return f"would gain {points:.1f} points by joining (± {spread:.1f})."
    return f"does better alone, by {-points:.1f} points (± {spread:.1f})."


def percent(share: float | None) -> str:
    """A score for a table.

    >>> percent(0.8125), percent(None)
    ('81.2 %', '–')
    """
    return "–" if share is None else f"{100 * share:.1f} %"


def summary(found: "Baselines") -> list[str]:
    """What stands above and below the table."""
    budget = "without privacy" if found.pooled_epsilon is None else f"at ε {found.pooled_epsilon:g}"
    if found.num_budgets > 1:
        budget += f", the smallest of {found.num_budgets} budgets"
    lines = [
        f"On the public test set ({found.num_public:,} records), {found.score_name}: federation "
        f"{percent(found.federation)}; all data pooled at one site {budget}: {percent(found.pooled)}; pooled without "
        f"privacy: {percent(found.no_privacy)}."
    ]
    if len(found.rows) < found.num_sites:
        lines.append(
            f"{len(found.rows)} of {found.num_sites:,} sites were also simulated alone, drawn by seed {found.seed}."
        )
    judged = [row.gain for row in found.rows if row.gain is not None]
    if judged:
        clear = [row for row in found.rows if row.gain is not None and abs(row.gain) > 2 * (row.error or 0.0)]
        more = sum(1 for row in clear if (row.gain or 0.0) > 0)
        lines.append(
            f"By joining, {more} of {len(judged)} clearly gain and {len(clear) - more} clearly lose; on average "
            f"{100 * sum(judged) / len(judged):+.1f} points."
        )
    if any(row.federation.own is not None for row in found.rows):
        lines.append(
            "own: on the site's held-out units, without noise: only a simulation can know it. Gains are taken there if "
            "these are 10 or more, else on the public test set."
        )
    lines.append("±: two standard errors by the size of the test set; another seed moves the rest (--repeat).")
    return lines


def sentences(found: "Baselines") -> list[str]:
    """One a site."""
    return [printable(f"{row.site} {row.words}") for row in found.rows]


def terminal_table(found: "Baselines") -> "Table":
    """For rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{_title(found)} in %, {_tests(found)}", title_justify="left", header_style="bold")
    for index, name in enumerate(_COLUMNS):
        table.add_column(name, justify="right" if index else "left")
    for row in found.rows:
        table.add_row(*(Text(printable(cell)) for cell in _cells(found, row)))
    return table


def html_table(found: "Baselines") -> str:
    """For a notebook."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*_COLUMNS, ""))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (*_cells(found, row), row.words)) + "</tr>"
        for row in found.rows
    )
    words = "".join(f"<p>{html.escape(line)}</p>" for line in summary(found))
    caption = f"{_title(found)} in %, {html.escape(_tests(found))}"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{words}"


def _cells(found: "Baselines", row: "SiteRow") -> Iterator[str]:
    yield row.site
    yield f"{row.units:,}"
    yield "∞" if row.epsilon is None else f"{row.epsilon:g}"
    for score in (row.alone, row.federation, row.pooled, row.no_privacy):
        public, own = (None, None) if score is None else score
        yield _number(public) + (f" / {_number(own)}" if _has_own(found) else "")


def _number(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _title(found: "Baselines") -> str:
    return found.score_name[0].upper() + found.score_name[1:]


def _tests(found: "Baselines") -> str:
    return "public test / own held-out units" if _has_own(found) else "public test"


def _has_own(found: "Baselines") -> bool:
    return any(row.federation.own is not None for row in found.rows)
