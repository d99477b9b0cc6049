"""Geometry of the figures: every point inside its frame, ticks on the values they name; the same in the PNGs."""

import itertools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.server.report import png
from privet.server.report.axes import counting, linear, logarithmic
from privet.server.report.confusion import LEVELS, heat_map
from privet.server.report.figure import Band, Columns, Figure, Line
from privet.server.report.png import write_pngs
from privet.server.report.svg import NARROW, WIDE, Drawing, draw

_SERIES = st.dictionaries(st.integers(0, 10_000), st.floats(0, 1), min_size=1, max_size=40).map(
    lambda raw: tuple((float(n), value) for n, value in sorted(raw.items()))
)


def _value(drawing: Drawing, y: float) -> float:
    low, high = drawing.ys[0], drawing.ys[-1]
    first, last = (float(tick.text.replace(",", "")) for tick in (low, high))
    return first + (low.at - y) / (low.at - high.at) * (last - first)


@settings(max_examples=50)
@given(_SERIES, st.lists(st.integers(0, 10_000), max_size=5), st.floats(0, 0.5))
def test_everything_lies_within_the_frame_and_where_the_ticks_say(
    series: tuple[tuple[float, float], ...], skipped: list[int], error: float
) -> None:
    line = Line("accuracy", series, (error,) * len(series))
    figure = Figure("k", "Title", "y", "s", lines=(line,), marks=tuple(map(float, skipped)), limits=(0.0, 1.0))
    for size in (WIDE, NARROW):
        drawing = draw(figure, size)
        assert drawing is not None
        (path,) = drawing.lines
        points = [tuple(map(float, point.split(","))) for point in path.d.split()]
        assert len(points) == len(series)
        for (x, y), (_, value) in zip(points, series, strict=True):
            assert 0 <= drawing.left <= x <= drawing.right <= size.width
            assert drawing.top <= y <= drawing.bottom
            assert abs(_value(drawing, y) - value) < 0.01
        for bar, (_, value) in zip(path.bars, series, strict=True):
            assert abs(_value(drawing, bar.top) - min(1.0, value + error)) < 0.01
            assert abs(_value(drawing, bar.bottom) - max(0.0, value - error)) < 0.01
        assert all(drawing.left <= x <= drawing.right for x in drawing.marks)
        texts = [float(tick.text) for tick in drawing.ys]
        assert texts == sorted(set(texts))
        assert 2 <= len(texts) <= 8
        assert texts[0] >= 0
        assert texts[-1] <= 1


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_linear_axes_hold_all_values(values: list[float]) -> None:
    axis = linear(values, from_zero=True)
    assert axis.low <= 0 <= min(values) <= max(values) <= axis.high * (1 + 1e-9)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low <= value <= axis.high * (1 + 1e-9) for value, _ in axis.ticks)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_logarithmic_axes_hold_all_values(values: list[float]) -> None:
    axis = logarithmic(values)
    assert axis.low <= min(values) * (1 + 1e-6)
    assert axis.high >= max(values) * (1 - 1e-6)
    assert axis.low < axis.high
    assert 1 <= len(axis.ticks) <= 7
    assert all(float(text.replace(",", "")) == pytest.approx(value) for value, text in axis.ticks)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_rounds_begin_and_end_the_axis(first: int, spread: int) -> None:
    axis = counting(first, first + spread)
    texts = [int(text.replace(",", "")) for _, text in axis.ticks]
    assert texts[0] == first
    assert texts[-1] == first + spread
    assert texts == sorted(set(texts))
    assert len(texts) <= 9


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_labels_at_the_ends_of_lines_do_not_overlap(values: list[float]) -> None:
    lines = tuple(Line(f"site-{i}", ((1.0, 0.5), (2.0, value)), style=i % 8) for i, value in enumerate(values))
    drawing = draw(Figure("k", "Title", "y", "s", lines=lines), NARROW)
    assert drawing is not None
    places = sorted(label.y for label in drawing.labels)
    assert len(places) == len(values)
    assert all(b - a >= 14 for a, b in itertools.pairwise(places))


def test_a_stack_is_as_high_as_its_parts() -> None:
    columns = Columns(("a", "b"), (1.0, 2.0), ((3.0, 1.0), (2.0, 0.0)), 1.0, (0, 1))
    drawing = draw(Figure("k", "Title", "y", "s", columns=columns, from_zero=True), WIDE)
    assert drawing is not None
    first, second = drawing.columns
    assert (first.d.count("M"), second.d.count("M")) == (2, 1)  # nothing is drawn for nothing
    places = re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)H.*", second.d)
    assert places is not None
    low, high = float(places[2]), float(places[1])
    assert abs(_value(drawing, low) - 4.0) < 0.02
    assert abs(_value(drawing, high) - 3.0) < 0.02
    assert [item.name for item in drawing.legend] == ["a", "b"]


def test_many_points_are_a_bare_line_of_bounded_length() -> None:
    drawing = draw(
        Figure("k", "T", "y", "s", lines=(Line("a", tuple((float(n), n / 1e4) for n in range(10_000))),)), WIDE
    )
    assert drawing is not None
    (line,) = drawing.lines
    assert line.dots == ()
    points = line.d.split()
    assert len(points) == 600
    assert points[0].startswith(f"{drawing.left}")
    assert points[-1].startswith(f"{drawing.right}")


@settings(max_examples=30)
@given(st.integers(2, 40), st.randoms(use_true_random=False))
def test_a_heat_map_holds_each_cell_once_and_names_the_worst_pairs(number: int, chance: random.Random) -> None:
    matrix = [[chance.randrange(4) for _ in range(number)] for _ in range(number)]
    labels = [f"label {i}" for i in range(number)]
    heat = heat_map(matrix, labels)
    if heat is None:
        assert not any(map(any, matrix))
        return
    right = {piece for path in heat.right for piece in path.split("z") if piece}
    wrong = {piece for path in heat.wrong for piece in path.split("z") if piece}
    assert right == {f"M{i} {i}h1v1h-1" for i in range(number) if matrix[i][i]}
    assert wrong == {f"M{j} {i}h1v1h-1" for i in range(number) for j in range(number) if i != j and matrix[i][j]}
    counts = sorted((matrix[i][j] for i in range(number) for j in range(number) if i != j), reverse=True)
    assert [pair.count for pair in heat.pairs] == [count for count in counts[:12] if count]
    for pair in heat.pairs:
        i, j = labels.index(pair.truth), labels.index(pair.given)
        assert (pair.count, pair.share) == (matrix[i][j], matrix[i][j] / sum(matrix[i]))
    assert len(heat.cells) == (sum(bool(v) for row in matrix for v in row) if number <= 16 else 0)


def test_of_very_many_labels_those_with_most_mistakes_are_drawn() -> None:
    number = 200
    matrix = [[0] * number for _ in range(number)]
    for i in range(number):
        matrix[i][i], matrix[i][(i + 1) % number] = 10, i
    heat = heat_map(matrix, [f"label {i}" for i in range(number)])
    assert heat is not None
    assert heat.numbers == tuple(range(81, 201))
    assert sum(map(len, heat.right + heat.wrong)) < 100_000
    assert heat.pairs[0].truth == "label 199"


@pytest.mark.parametrize("matrix", [[], [[1]], [[1, 2]], [[0, 0], [0, 0]], [[1, 2], [3]]])
def test_what_is_no_matrix_of_the_labels_is_not_drawn(matrix: list[list[float]]) -> None:
    assert heat_map(matrix, ["a", "b"]) is None


def test_small_noised_entries_are_no_pairs() -> None:
    heat = heat_map([[9.6, 0.2], [1.8, 3.0]], ["a", "b"], noised=True)
    assert heat is not None
    assert [(pair.truth, pair.given) for pair in heat.pairs] == [("b", "a")]
    assert {cell.level for cell in heat.cells} <= set(range(LEVELS))


def test_every_figure_is_a_png_whatever_its_names(tmp_path: Path) -> None:
    odd = "$\\frac{$ 患者 <b>"
    figures = [
        Figure(
            "lines", odd, odd, odd, lines=(Line(odd, ((1.0, 0.5), (2.0, 0.6)), (0.1, 0.1)), Line("b", ((1.0, 1.0),)))
        ),
        Figure("log", "t", "y", "s", lines=(Line("a", ((1.0, 0.5), (2.0, 90.0))),), scale="log"),
        Figure("bands", "t", "y", "s", bands=(Band("all", ((1.0, 0.1, 0.2), (2.0, 0.1, 0.3))),), marks=(2.0,)),
        Figure("stack", "t", "y", "s", columns=Columns(("a",), (1.0,), ((3.0,),), 1.0, (8,)), from_zero=True),
        Figure("nothing", "t", "y", "s"),
    ]
    heat = heat_map([[3, 1], [0, 2]], [odd, "b"])
    written = write_pngs(figures, heat, tmp_path / "figures")
    assert [path.name for path in written] == ["lines.png", "log.png", "bands.png", "stack.png", "confusion.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in written)
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 2_000


def test_without_matplotlib_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from privet.server.report import write

    monkeypatch.setattr(png, "find_spec", lambda _name: None)
    written = write.write_page("<!doctype html>", [], None, tmp_path / "page.html")
    assert written.pngs == ()
    assert (tmp_path / "page.html").read_text() == "<!doctype html>"
    assert not (tmp_path / "page-figures").exists()
