"""Which labels are taken for which: a heat map of a confusion matrix, and its largest entries in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from privet.server.report.words import shortened

LEVELS = 8  # shades of a cell
_MAX_NUMBERED = 16  # labels up to which each cell shows its number
_MAX_DRAWN = 120  # labels; of more those with the most mistakes
_MAX_NAMED = 30  # characters of a label beside its row
_PAIRS = 12


@dataclass(frozen=True)
class Pair:
    """Records of one label that the model gave another."""

    truth: str
    given: str
    count: float
    share: float  # of the records with that true label


@dataclass(frozen=True)
class Cell:
    """A cell with its number: places in cells."""

    row: int
    column: int
    text: str
    told: str
    level: int
    right: bool


@dataclass(frozen=True)
class HeatMap:
    """A matrix as shares of its rows, by level 0 to LEVELS - 1.

    right, wrong: for each level one SVG path of all cells that have it, 1 by 1 each; wrong lie off the diagonal.
    cells: where the labels are few, each on its own. shares: the matrix that was drawn, for a PNG.
    """

    labels: tuple[str, ...]
    short: tuple[str, ...]
    numbers: tuple[int, ...]  # of the labels in the plan, from 1
    num_labels: int  # of the plan
    total: float
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]
    shares: tuple[tuple[float, ...], ...]
    noised: bool

    @property
    def summary(self) -> str:
        """For who does not see it."""
        most = f" Most often {self.pairs[0].truth} is taken for {self.pairs[0].given}." if self.pairs else ""
        return f"Confusion matrix of {self.num_labels} labels: rows are true labels, columns what the model gave.{most}"


def heat_map(matrix: Sequence[Sequence[float]], labels: Sequence[str], *, noised: bool = False) -> HeatMap | None:
    """None unless the matrix is square, of the labels' number, and counts something.

    matrix: rows are the truth. noised: its entries are estimates; they are rounded where they are told.
    """
    if len(matrix) != len(labels) or any(len(row) != len(labels) for row in matrix):
        return None
    total = sum(map(sum, matrix))
    if total <= 0:
        return None
    sums = [sum(row) for row in matrix]
    pairs = [
        Pair(labels[i], labels[j], value, value / sums[i])
        for i, row in enumerate(matrix)
        for j, value in enumerate(row)
        if i != j and value >= (0.5 if noised else 1)
    ]
    pairs.sort(key=lambda pair: (-pair.count, pair.truth, pair.given))
    drawn = list(range(len(labels)))
    if len(drawn) > _MAX_DRAWN:
        wrong = [sums[i] - matrix[i][i] for i in drawn]
        drawn = sorted(sorted(drawn, key=lambda i: (-wrong[i], i))[:_MAX_DRAWN])
    shares = [[matrix[i][j] / sums[i] if sums[i] > 0 else 0.0 for j in drawn] for i in drawn]
    right, wrong_paths = [""] * LEVELS, [""] * LEVELS
    cells = []
    for row, parts in enumerate(shares):
        for column, share in enumerate(parts):
            if share <= 0:
                continue
            at = level(share)
            (right if row == column else wrong_paths)[at] += f"M{column} {row}h1v1h-1z"
            if len(drawn) <= _MAX_NUMBERED:
                i, j = drawn[row], drawn[column]
                value = _count(matrix[i][j])
                told = f"{labels[i]}, labelled {labels[j]}: {value} of {_count(sums[i])}, {100 * share:.1f} %"
                cells.append(Cell(row, column, value, told, at, row == column))
    return HeatMap(
        labels=tuple(labels[i] for i in drawn),
        short=tuple(shortened(labels[i], _MAX_NAMED) for i in drawn),
        numbers=tuple(i + 1 for i in drawn),
        num_labels=len(labels),
        total=total,
        right=tuple(right),
        wrong=tuple(wrong_paths),
        cells=tuple(cells),
        pairs=tuple(pairs[:_PAIRS]),
        shares=tuple(map(tuple, shares)),
        noised=noised,
    )


def level(share: float) -> int:
    """The shade of a share in (0, 1]: by its root, for mistakes are small shares and must be seen.

    >>> level(0.001), level(0.1), level(0.5), level(1.0)
    (0, 2, 5, 7)
    """
    return min(LEVELS - 1, int(share**0.5 * LEVELS))


def _count(value: float) -> str:
    return f"{value:,.0f}"
