"""The curve's geometry: every point inside its frame, ticks on the values they name."""

from hypothesis import given
from hypothesis import strategies as st

from privet.server.curve import draw

_SERIES = st.dictionaries(st.integers(0, 10_000), st.floats(0, 1), max_size=40).map(lambda raw: sorted(raw.items()))


@given(_SERIES, st.lists(st.integers(0, 10_000), max_size=5))
def test_everything_lies_within_the_frame(series: list[tuple[int, float]], skipped: list[int]) -> None:
    curve = draw([("accuracy", series), ("nothing", [])], skipped)
    assert (curve is None) == (not series)
    if curve is None:
        return
    assert [line.name for line in curve.lines] == ["accuracy"]
    points = [tuple(map(float, point.split(","))) for point in curve.lines[0].points.split()]
    assert len(points) == len(series)
    for x, y in points:
        assert curve.left <= x <= curve.right
        assert curve.top <= y <= curve.bottom
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(curve.left <= x <= curve.right for x in curve.skipped)
    assert 1 <= len(curve.rounds) <= 12
    assert 2 <= len(curve.values) <= 7
    texts = [float(tick.text) for tick in curve.values]
    assert texts == sorted(set(texts))
    assert texts[0] >= 0
    assert texts[-1] <= 1
    low, high = curve.values[0], curve.values[-1]
    assert low.at > high.at  # y grows downwards
    for (_, value), (_, y) in zip(series, points, strict=True):  # a value lies where the ticks say
        named = float(low.text) + (low.at - y) / (low.at - high.at) * (float(high.text) - float(low.text))
        assert abs(named - value) < 0.01


def test_ticks_are_round_numbers() -> None:
    curve = draw([("accuracy", [(n, n / 50) for n in range(1, 41)])], [22])
    assert curve is not None
    assert [tick.text for tick in curve.rounds] == ["1", "5", "10", "15", "20", "25", "30", "35", "40"]
    assert [tick.text for tick in curve.values] == ["0.0", "0.2", "0.4", "0.6", "0.8"]
    assert curve.lines[0].dots[0].text == "round 1: accuracy 0.020"
    assert len(curve.skipped) == 1


def test_many_rounds_are_a_bare_line() -> None:
    curve = draw([("accuracy", [(n, 0.5) for n in range(200)])], [])
    assert curve is not None
    assert curve.lines[0].dots == ()


@given(_SERIES.filter(bool), st.floats(0, 0.5))
def test_error_bars_reach_a_standard_error_to_either_side(series: list[tuple[int, float]], error: float) -> None:
    curve = draw([("accuracy", []), ("at sites", series)], [], {"at sites": {number: error for number, _ in series}})
    assert curve is not None
    low, high = curve.values[0], curve.values[-1]

    def value(y: float) -> float:
        return float(low.text) + (low.at - y) / (low.at - high.at) * (float(high.text) - float(low.text))

    (line,) = curve.lines
    assert len(line.bars) == len(series)
    for (_, middle), bar in zip(series, line.bars, strict=True):
        assert curve.top <= bar.top <= bar.bottom <= curve.bottom
        assert abs(value(bar.top) - min(1.0, middle + error)) < 0.01
        assert abs(value(bar.bottom) - max(0.0, middle - error)) < 0.01
