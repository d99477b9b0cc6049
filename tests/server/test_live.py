"""What people see at a server and at a site: one plain line per event, JSON lines, and names that cannot draw."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from privet.client import live as client_live
from privet.common import live as common_live
from privet.common.errors import Code
from privet.server import live as server_live
from privet.server.live import View, in_words
from tests.server.statements import at_sites, public, round_row

Event = dict[str, Any]
LINES: list[tuple[Event, str | None]] = [
    (
        {"event": "listening", "address": "0.0.0.0:9092", "port": 9092, "sites": ["north", "south"]},
        "listening on 0.0.0.0:9092; 2 enrolled sites",
    ),
    (
        {"event": "started", "federation": "hospitals", "plan": "ab" * 32, "rounds": 3},
        "federation hospitals, plan abababababababab, 3 rounds",
    ),
    ({"event": "initial", "public": public(0.25)}, "before the first round: public accuracy 0.250"),
    ({"event": "online", "sites": ["north"]}, None),
    (
        {"event": "waiting", "round": 1, "ready": ["north"], "needed": 2},
        "round 1: 1 of 2 needed sites are ready",
    ),
    ({"event": "offer", "site": "north", "code": "ok", "epsilon": 2.5}, "north: agreed"),
    ({"event": "offer", "site": "south", "code": "pending"}, "south: waits for its operator's approval"),
    ({"event": "offer", "site": "south", "code": "no_answer"}, "south: did not answer"),
    ({"event": "round_started", "round": 1, "cohort": ["north", "south"]}, None),
    ({"event": "reply", "site": "north"}, None),
    (
        round_row(1, public=public(0.5)),
        "round 1: 2 answered in 2.0 s; public accuracy 0.500",
    ),
    (
        round_row(
            2, answered=["north"], missing=["south"], failed={"east": "round_lost"}, aggregated=False, public=None
        ),
        "round 2: 1 answered in 2.0 s; missing: south; east: lost this round to a crash; it is spent; "
        "too few sound updates: nothing was changed",
    ),
    ({"event": "warning", "text": "the disk is nearly full"}, "warning: the disk is nearly full"),
    ({"event": "finished", "run": "/runs/x", "rounds": 3}, "done after 3 rounds: /runs/x"),
    ({"event": "something new", "x": 1}, None),
    (
        {"event": "enrolled", "sites": ["north", "south"]},
        "the sites' keys changed: 2 enrolled: north, south",
    ),
    (
        {"event": "certificate", "until": "2031-02-03"},
        "the server's new certificate is in use, valid until 2031-02-03",
    ),
    (
        {"event": "refused_key", "fingerprint": "SHA256:abc", "name": "north", "reason": "not enrolled"},
        "refused the key of north SHA256:abc: not enrolled",
    ),
    (
        {"event": "refused_key", "fingerprint": None, "name": None, "reason": "no key"},
        "refused somebody: no key",
    ),
]
EVALUATED: list[tuple[Event, str | None]] = [
    (
        round_row(3, public=None, **at_sites(missing=["east"], failed={"west": "ledger_behind"})),
        "round 3: 2 answered in 2.0 s; accuracy at the sites 0.750 ± 0.050 (64 % of the variance is privacy noise); "
        "no metrics from: east; no metrics from west: waits: its ledger is older than it was, and what it forgot must "
        "be charged first",
    ),
    (
        round_row(4, public=None, **at_sites(None)),
        "round 4: 2 answered in 2.0 s; accuracy at the sites: lost in the privacy noise",
    ),
    (
        round_row(5, public=None, **(at_sites(answered=[], missing=["north"]) | {"sites": None})),
        "round 5: 2 answered in 2.0 s; no site's metrics came; no metrics from: north",
    ),
    (
        {"event": "stopped_early", "round": 5, "judgements": 3, "best": 2, "accuracy": 0.75, "metric": "sites"},
        "stopped early after round 5: no better accuracy at the sites in 3 judgements",
    ),
    (
        {"event": "kept", "best": 2, "accuracy": 0.75, "metric": "public"},
        "kept: the adapter of round 2, public accuracy 0.750",
    ),
]


def _drawn(view: Any, width: int = 200) -> str:
    """What a terminal would be sent, with its control sequences."""
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=width, color_system="truecolor", legacy_windows=False).print(view)
    return out.getvalue()


def _plain(view: Any, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(view)
    return out.getvalue()


def test_each_event_has_its_line() -> None:
    view = View("privet server hospitals")
    for event, line in [*LINES, *EVALUATED]:
        assert view.feed(event) == line
        _drawn(view)  # the table can be drawn at any time
        _plain(view, width=20)


def test_what_the_table_shows() -> None:
    view = View("privet server hospitals")
    _plain(view)
    for event, _ in LINES[:10]:
        view.feed(event)
    rows = _plain(view)
    assert "round 1 of 3" in rows
    assert "north" in rows
    assert "2.50" in rows
    for event, _ in LINES[10:]:
        view.feed(event)
    north, south, east = (
        next(row for row in _plain(view).splitlines() if row.startswith(n)) for n in ("north", "south", "east")
    )
    assert north.split() == ["north", "online", "answered", "2", "2.50"]
    assert "away" in south
    assert "missing in round 2" in south
    assert "lost this round" in east
    assert "public accuracy 0.500 ▂▄" in _plain(view)
    assert "done after 3 rounds" in _plain(view)


def test_the_latest_metrics_of_the_sites_are_shown() -> None:
    view = View("privet server hospitals")
    view.feed(EVALUATED[0][0])
    view.feed(round_row(4, public=None))
    assert "accuracy at the sites 0.750 ± 0.050" in _plain(view)


def test_many_sites_are_not_all_drawn() -> None:
    view = View("x")
    view.feed({"event": "online", "sites": [f"site-{index:03d}" for index in range(1000)]})
    assert len(_plain(view).splitlines()) < 50


@pytest.mark.parametrize("code", [*Code, "no_answer"])
def test_every_code_has_words(code: str) -> None:
    assert in_words(code)
    assert "_" not in in_words(code)


HOSTILE = ["[red]x[/red]", "[/]", "[link=http://evil]x[/link]", "[bold", "x\\", "\\[red]", "[@click=app.quit]x[/]"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_with_markup_is_shown_as_it_is(name: str) -> None:
    view = View(f"privet server {name}")
    events: list[Event] = [
        {"event": "listening", "address": name, "sites": [name]},
        {"event": "offer", "site": name, "code": name, "epsilon": 1.0},
        {"event": "waiting", "round": 1, "ready": [name], "needed": 2},
        {"event": "round_started", "round": 1, "cohort": [name]},
        round_row(1, cohort=[name], answered=[], failed={name: name}, missing=[name]),
        {"event": "warning", "text": name},
        {"event": "finished", "run": name, "rounds": 1},
    ]
    for event in events:
        view.feed(event)
        seen = _plain(view)
        assert name in seen
        row = next(row for row in _drawn(view).splitlines() if row.startswith(name))
        assert "\x1b]8" not in row  # no link
        assert "\x1b[31m" not in row  # no colour


@pytest.mark.parametrize("text", HOSTILE)
def test_a_sites_own_view_shows_text_as_it_is(text: str) -> None:
    view = client_live.View(text)
    view.feed({"event": "link", "text": text})
    view.feed({"event": "pending", "text": text})
    assert _plain(view).count(text) == 3
    assert "\x1b]8" not in _drawn(view)


def _watched(module: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool, *events: Event) -> Any:
    def console(**settings: Any) -> Console:
        import sys

        settings.pop("stderr")
        return Console(file=sys.stderr, force_terminal=terminal, width=200, **settings)

    monkeypatch.setattr(common_live, "Console", console)
    with module.watch("title", as_json=False) as listener:
        for event in events:
            listener(event)
    return capsys.readouterr()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("terminal", [True, False])
def test_hostile_names_reach_a_terminal_as_text(
    capsys: Any, monkeypatch: pytest.MonkeyPatch, name: str, terminal: bool
) -> None:
    offer = {"event": "offer", "site": name, "code": "ok"}
    seen = _watched(server_live, capsys, monkeypatch, terminal, offer, {"event": "warning", "text": name})
    assert f"{name}: agreed" in seen.err
    assert f"warning: {name}" in seen.err
    assert seen.out == ""
    seen = _watched(client_live, capsys, monkeypatch, terminal, {"event": "refused", "text": name})
    assert name in seen.err
    assert seen.out == ""


def test_without_a_terminal_people_read_plain_lines(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _watched(server_live, capsys, monkeypatch, False, *(event for event, _ in LINES))
    assert seen.err.splitlines() == [line for _, line in LINES if line]
    assert "\x1b" not in seen.err
    assert seen.out == ""


def test_as_json_every_event_is_one_line(capsys: Any) -> None:
    for module in (server_live, client_live):
        with module.watch("title", as_json=True) as listener:
            for event, _ in LINES:
                listener(event)
            listener({"event": "warning", "text": "two\nlines – ü"})
        seen = capsys.readouterr()
        found = [json.loads(line) for line in seen.out.splitlines()]
        assert found == [*(event for event, _ in LINES), {"event": "warning", "text": "two\nlines – ü"}]
        assert seen.err == ""


BUDGET: Event = {
    "event": "budget",
    "epsilon": 8.0,
    "spent_epsilon": 2.0,
    "reserved_epsilon": 4.0,
    "left_epsilon": 4.0,
    "rounds": 5,
}


def test_a_site_sees_its_link_its_work_and_its_budget() -> None:
    view = client_live.View("north")
    assert view.feed({"event": "link", "text": "connected"}) == "connected"
    assert view.feed({"event": "link", "text": "connected"}) is None
    assert view.feed({"event": "link", "text": ""}) is None
    assert view.feed({"event": "trained", "text": "round 3\nmore"}) == "round 3\nmore"
    assert view.feed({"event": "draining"}) == "draining"
    assert view.feed(BUDGET) is None
    seen = _plain(view)
    assert "privet client north  connected" in seen
    assert seen.count("█") == 8  # 2 of 8, of 32
    assert seen.count("▒") == 8  # 4 are reserved, 2 of them spent
    assert seen.count("░") == 16
    assert "ε spent 2.00, reserved 4.00, left 4.00 of 8; 5 rounds" in seen


@pytest.mark.parametrize(("spent", "reserved"), [(0.0, 0.0), (8.0, 8.0), (9.0, 12.0), (8.0, 0.0), (0.0, 100.0)])
def test_the_bar_has_one_length(spent: float, reserved: float) -> None:
    view = client_live.View("north")
    view.feed(BUDGET | {"spent_epsilon": spent, "reserved_epsilon": reserved})
    seen = _plain(view)
    assert sum(seen.count(sign) for sign in "█▒░") == 32
