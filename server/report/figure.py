"""A figure as data: what page and PNG draw alike. Values, not places."""

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
NUM_STYLES = 8  # colours and dashes that tell lines apart
GREY = 8  # the style of what is absent


@dataclass(frozen=True)
class Line:
    """One series; a value that is not finite must not be in it."""

    name: str
    points: tuple[Point, ...]
    errors: tuple[float, ...] = ()  # half the length of each point's error bar; none, or one a point
    style: int = 0
    note: str = ""  # said after the name where the line ends


@dataclass(frozen=True)
class Band:
    """Between two values along x: quantiles of many sites."""

    name: str
    points: tuple[tuple[float, float, float], ...]  # x, lower, upper
    style: int = 0
    strong: bool = False


@dataclass(frozen=True)
class Columns:
    """Stacked columns of one width."""

    names: tuple[str, ...]
    at: tuple[float, ...]  # their middles along x
    heights: tuple[tuple[float, ...], ...]  # one tuple a column, one height a name
    width: float
    styles: tuple[int, ...]


@dataclass(frozen=True)
class Figure:
    """One plot. `key` names its file; `summary` says what it shows to who does not see it."""

    key: str
    title: str
    y: str  # of the vertical axis, with its unit
    summary: str
    x: str = "round"
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    columns: Columns | None = None
    marks: tuple[float, ...] = ()  # along x
    marks_name: str = ""
    scale: Literal["linear", "log"] = "linear"
    from_zero: bool = False
    limits: tuple[float | None, float | None] = (None, None)  # beyond which the vertical axis does not go
    across: tuple[float | None, float | None] = (None, None)  # beyond which the horizontal axis does not go
    whole: bool = True  # whether x counts something
    note: str = ""  # under the figure
