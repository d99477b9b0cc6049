"""How far a simulation is, how fast and for how long still, by a clock that the test winds."""

from typing import Any

import pytest
from rich.console import Console

from privet.common.live import Event
from privet.simulations.progress import SimulationView, told_to


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> SimulationView:
    found = SimulationView("privet simulate x", clock=clock)
    found.feed({"event": "started", "federation": "x", "plan": "0" * 64, "rounds": 100})
    return found


COHORT = [f"site-{index:04d}" for index in range(1000)]


def _round(number: int, **changed: Any) -> Event:
    row: Event = {"event": "round", "round": number, "answered": COHORT[:990], "missing": COHORT[990:], "failed": {}}
    row |= {"seconds": 10.0, "aggregated": True, "public": {"accuracy": 0.5}, "sites": None, "evaluation": None}
    return row | changed


def _play(view: SimulationView, clock: Clock, number: int, answers: int, seconds: float) -> list[str]:
    """The lines of a round that begins, and of so many answers that come evenly."""
    lines = [view.feed({"event": "round_started", "round": number, "cohort": COHORT})]
    for index in range(answers):
        clock.now += seconds / answers
        lines.append(view.feed({"event": "reply", "site": COHORT[index], "kind": "train"}))
    return [line for line in lines if line]


def _drawn(view: SimulationView) -> str:
    console = Console(width=140, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_rate_and_time_left(view: SimulationView, clock: Clock) -> None:
    _play(view, clock, 1, 500, 5.0)
    assert view.rate == pytest.approx(100)
    assert view.left == pytest.approx(995)  # half a round in 5 s, 99 and a half to come
    drawn = _drawn(view)
    assert "500 of 1,000 sites in round 1" in drawn
    assert "0 of 100 rounds  100.0 updates/s, 17 min left" in drawn
    clock.now += 5.0
    view.feed(_round(1))
    assert view.left == pytest.approx(990)
    assert "1 of 100 rounds" in _drawn(view)
    assert "public accuracy 0.500" in _drawn(view)


def test_answers_to_an_evaluation_are_no_updates(view: SimulationView, clock: Clock) -> None:
    _play(view, clock, 1, 10, 1.0)
    view.feed({"event": "reply", "site": COHORT[0], "kind": "evaluate"})
    assert (view.updates, view.trained, view.measured) == (10, 10, 1)


def test_a_slow_beginning_is_forgotten(view: SimulationView, clock: Clock) -> None:
    for number in range(1, 41):
        _play(view, clock, number, 10, 100.0 if number == 1 else 1.0)
        view.feed(_round(number))
    assert view.rate == pytest.approx(10)
    assert view.left == pytest.approx(60)


def test_what_was_done_before_it_went_on_took_no_time_now(view: SimulationView, clock: Clock) -> None:
    assert (
        view.feed({"event": "resumed", "round": 90, "completed": 90})
        == "going on after round 90, 90 of them aggregated"
    )
    _play(view, clock, 91, 10, 2.0)
    clock.now += 1.0
    told = view.feed(_round(91))
    assert told is not None
    assert view.left == pytest.approx(27)
    assert "27 s left" in told


def test_lines_without_a_terminal_are_occasional_and_short(view: SimulationView, clock: Clock) -> None:
    within = _play(view, clock, 1, 1000, 100.0)
    assert len(within) == 3
    assert within[0].startswith("round 1 of 100: 30")
    assert within[0].endswith(" of 1,000 sites; 10.0 updates/s, 2 h 47 min left")
    told = view.feed(_round(1))
    assert told is not None
    assert "990 answered in 10.0 s; missing: 10 sites; public accuracy 0.500" in told
    quick = []
    for number in range(2, 101):
        clock.now += 0.1
        quick.append(view.feed(_round(number)))
    assert len([line for line in quick if line]) == 2  # after five seconds, and the last
    assert quick[-1]


def test_names_of_a_few_are_told_and_a_failed_round_is_never_passed_over(view: SimulationView, clock: Clock) -> None:
    view.feed({"event": "round_started", "round": 1, "cohort": COHORT})
    view.feed(_round(1))
    line = view.feed(_round(2, missing=COHORT[:2], failed={COHORT[5]: "unavailable"}, aggregated=False, public=None))
    assert line is not None
    assert "missing: site-0000, site-0001; failed: site-0005; too few sound updates" in line


def test_every_listener_is_told_in_order() -> None:
    heard: list[tuple[str, object]] = []
    tell = told_to(*(lambda event, name=name: heard.append((name, event["event"])) for name in "ab"))
    tell({"event": "x"})
    assert heard == [("a", "x"), ("b", "x")]
