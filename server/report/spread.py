"""How far the sites lie apart: their scores in a simulation, by round and in the last one that has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from privet.server.report.curves import score_name
from privet.server.report.figure import NUM_STYLES, Band, Columns, Figure, Line
from privet.server.report.folder import Run
from privet.server.report.rows import Row, Spread

_MAX_LINES = 12
_MAX_LISTED = 24  # sites that are all listed; of more the best and worst
_ENDS = 6
_NUM_BINS = 20
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class SpreadPart:
    """What the page shows: figures, the sites with their score (the best first), and how many are left out."""

    round: int
    num_sites: int
    figures: tuple[Figure, ...]
    sites: tuple[tuple[str, float], ...]
    left_out: int
    quantiles: tuple[tuple[str, float], ...]


def spread_part(run: Run) -> SpreadPart | None:
    """None where no round has a spread, or where the run is no simulation: see `rows.Spread`."""
    if not run.simulated:
        return None
    rows = [(row, row.spread) for row in run.history if row.spread is not None]
    if not rows:
        return None
    row, last = rows[-1]
    named = sorted(last.sites.items(), key=lambda item: (-item[1], item[0]))
    shown = named if len(named) <= _MAX_LISTED else named[:_ENDS] + named[-_ENDS:]
    score = score_name(run)
    found = [by_round(rows, score), histogram(row.round, last, score)]
    names = ("least", "a quarter lie under", "median", "three quarters lie under", "greatest")
    known = [(name, last.quantile(share)) for name, share in zip(names, _QUANTILES, strict=True)]
    return SpreadPart(
        round=row.round,
        num_sites=len(last.every) or last.num_sites,
        figures=tuple(figure for figure in found if figure is not None),
        sites=tuple(shown),
        left_out=len(named) - len(shown),
        quantiles=tuple((name, value) for name, value in known if value is not None),
    )


def by_round(rows: Sequence[tuple[Row, Spread]], score: str) -> Figure | None:
    """A line for each of a few named sites, else bands of quantiles; None where there is one round alone."""
    if len(rows) < 2:
        return None
    names = sorted({name for _, spread in rows for name in spread.sites})
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    if names and len(names) <= _MAX_LINES and all(spread.sites for _, spread in rows):
        series = {name: [(row.round, s.sites[name]) for row, s in rows if name in s.sites] for name in names}
        order = sorted(names, key=lambda name: (-series[name][-1][1], name))
        lines = tuple(
            Line(name, tuple(series[name]), style=i % NUM_STYLES, note=f"{series[name][-1][1]:.2f}")
            for i, name in enumerate(order)
        )
        words = f"{len(names)} sites"
    else:
        found = [(float(row.round), [s.quantile(share) for share in _QUANTILES]) for row, s in rows]
        whole = [(n, [value for value in values if value is not None]) for n, values in found]
        whole = [(n, values) for n, values in whole if len(values) == len(_QUANTILES)]
        if len(whole) < 2:
            return None
        lines = (Line("median", tuple((n, values[2]) for n, values in whole), note=f"{whole[-1][1][2]:.2f}"),)
        bands = (
            Band("least to greatest", tuple((n, v[0], v[4]) for n, v in whole)),
            Band("middle half of the sites", tuple((n, v[1], v[3]) for n, v in whole), strong=True),
        )
        words = "quantiles of the sites"
    return Figure(
        key="spread-by-round",
        title=f"{_title(score)} of each site by round",
        y=f"{score} at a site",
        summary=f"{_title(score)} at the sites by round: {words}.",
        lines=lines,
        bands=bands,
        limits=(0.0, 1.0),
    )


def histogram(number: int, spread: Spread, score: str) -> Figure | None:
    """How many sites have which score; None where only quantiles are known, or the sites are few enough to list."""
    every = spread.every
    if len(every) <= _MAX_LINES:
        return None
    low, high = every[0], every[-1]
    step = next((s for s in (0.005, 0.01, 0.02, 0.05) if (high - low) / s <= _NUM_BINS), 0.05)
    top = round(1 / step) - 1  # where a score of 1 lies, too
    places = [min(top, int(value / step + 1e-9)) for value in every]
    first = places[0]
    counts = [0] * (places[-1] - first + 1)
    for place in places:
        counts[place - first] += 1
    return Figure(
        key="spread",
        title=f"Sites by {score} after round {number}",
        x=score,
        y="sites",
        summary=f"How many of {len(every):,} sites have which {score}, in steps of {step:g}: "
        f"from {low:.3f} to {high:.3f}.",
        columns=Columns(
            names=("sites",),
            at=tuple((first + i + 0.5) * step for i in range(len(counts))),
            heights=tuple((float(count),) for count in counts),
            width=step,
            styles=(0,),
        ),
        from_zero=True,
        across=(0.0, 1.0),
        whole=False,
    )


def _title(score: str) -> str:
    return score[0].upper() + score[1:]
