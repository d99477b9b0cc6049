"""report.html: true figures, no outside resource, no word of a stranger read as markup."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from privet.common.config import Plan
from privet.server.report import duration_text, report_html, size_text
from tests.server.statements import at_sites, public, round_row, stated

_VOID = {"meta", "link"}
_TAGS = {
    *("html", "head", "title", "style", "body", "header", "main", "h1", "h2", "p", "strong", "bdi", "dl", "div"),
    *(
        "dt",
        "dd",
        "figure",
        "figcaption",
        "svg",
        "line",
        "polyline",
        "circle",
        "text",
        "span",
        "table",
        "thead",
        "tbody",
        "tr",
    ),
    *("th", "td", "details", "summary", "ul", "li", "pre", "code"),
}


class _Page(HTMLParser):
    """Tags, attributes and text of a page; that it is well nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"] and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, head: str) -> str:
        """The text of the table row that begins so."""
        start = self.texts.index(head)
        return " ".join(self.texts[start : start + 9])


def _plan(**changes: Any) -> Plan:
    raw = {
        "format": 1,
        "name": "clinic-notes",
        "task": {"labels": ["calm", "urgent", "other"]},
        "model": {"base": "example/tiny", "sha256": "a" * 64},
        "training": {"rounds": 40, "expected_batch": 64, "learning_rate": 0.01},
    }
    return Plan.model_validate(raw | changes)


def _page(plan: Plan | None = None, **changes: Any) -> str:
    values: dict[str, Any] = {
        "history": [round_row(1), round_row(2)],
        "statements": {"north": stated(), "south": stated(epsilon=7.501)},
        "simulated": False,
        "command": "privet server federation.toml",
        "final": public(),
    }
    return report_html(plan or _plan(), **(values | changes))


def test_headline_sites_and_cost() -> None:
    history = [
        round_row(1),
        round_row(2, answered=["north"], missing=["south"], seconds=8.0),
        round_row(3, answered=["north"], failed={"south": "round_lost"}, bytes_down=1_000_000),
        round_row(4, answered=[], failed={"south": "round_lost"}, missing=["north"], aggregated=False, public=None),
    ]
    page = _Page(_page(history=history))
    assert "Accuracy 81.2 % of 1,600 public records" in page.text
    assert "3 of 40 planned rounds" in page.text
    assert "Largest ε of a site 7.51" in page.text
    assert page.row("north") == "north 2.98 5.61 1e-5 1.234 0.064 3 1 no answer ×1"
    assert page.row("south") == "south 7.51 5.61 1e-5 1.234 0.064 1 3 no answer ×1, round_lost ×2"
    assert "Time 14 s 2 s" in page.text
    assert "Sent to sites 1.0 MB 252 kB" in page.text
    assert "Received from sites 8.0 kB 2.0 kB" in page.text
    assert "4 (not used)" in page.text
    assert "privet server federation.toml" in page.text
    assert "round without enough answers" in page.text
    assert f"# plan {_plan().digest}" in page.text
    for sentence in stated().in_words():
        assert sentence in page.text


def test_the_sites_metrics_stand_beside_the_public_ones() -> None:
    history = [
        round_row(1),
        round_row(2, **at_sites(0.7)),
        round_row(3, **at_sites(None, failed={"south": "round_lost"}, answered=["north"])),
        round_row(4, **(at_sites(missing=["north", "south"], answered=[]) | {"sites": None})),
        round_row(5, **at_sites(0.8)),
    ]
    text = _page(history=history)
    page = _Page(text)
    assert "Accuracy at the sites 80.0 % ± 5.0, 64 % of the variance is privacy noise" in page.text
    assert "Metrics by round" in page.text
    assert "Public metrics by round" not in page.text
    assert text.count('class="error error-2"') == 2
    assert "2 0.700 0.050 0.040 210 13 2 3 – – – 210 13 1 south : round_lost 4 – – – – – 0 north" in page.text
    assert "5 (kept) 0.800 0.050 0.040 210 13 2" in page.text
    assert "calm 0.625 0.100 urgent – – lost in the privacy noise" in page.text
    assert "expect a little less" not in page.text
    assert "None" not in page.text


def test_the_kept_rounds_metrics_are_the_ones_told() -> None:
    """Not the last round's, where the plan keeps the best by the sites' own metric."""
    plan = _plan(
        training={"rounds": 40, "expected_batch": 64, "learning_rate": 0.01, "train_fraction": 0.8},
        evaluation={"release": "per_class", "every": 1, "metric": "sites", "keep": "best"},
    )
    history = [round_row(1, **at_sites(0.6)), round_row(2, **at_sites(0.9)), round_row(3, **at_sites(0.7))]
    page = _Page(_page(plan, history=history))
    assert "Accuracy at the sites 90.0 %" in page.text
    assert "2 (kept)" in page.text
    assert "expect a little less of it" in page.text


def test_sites_metrics_need_no_public_file() -> None:
    page = _Page(_page(history=[round_row(1, public=None, **at_sites(0.7))], final=None))
    assert "no public file to judge on" in page.text
    assert "Accuracy at the sites 70.0 %" in page.text
    bare = _Page(_page(history=[round_row(1, public=None, **at_sites(None))], final=None)).text
    assert "and no site's metrics came" in bare


def test_only_a_simulation_says_that_it_guarantees_nothing() -> None:
    assert "Simulation: no guarantee." in _Page(_page(simulated=True)).text
    assert "guarantee." not in _Page(_page(statements={})).text.partition("Public metrics")[0]
    loose = stated(
        guarantee=False, reason="no noise is added", noise_multiplier=0.0, epsilon=None, epsilon_replace=None
    )
    page = _Page(_page(statements={"north": stated(), "south": loose}))
    assert "No guarantee at south : see what they state below." in page.text
    assert "Largest ε of a site ∞" in page.text


@pytest.mark.parametrize(
    "changes",
    [
        {"history": [], "statements": {}, "final": None},
        {"history": [round_row(1, public=None)], "final": None},
        {
            "history": [round_row(1, aggregated=False, public=None, answered=[], missing=["north", "south"])],
            "final": None,
        },
        {"history": [round_row(7)]},
        {"statements": {}, "history": [round_row(1, cohort=["stranger"], answered=["stranger"])]},
    ],
)
def test_sparse_runs_have_a_page(changes: dict[str, Any]) -> None:
    text = _Page(_page(**changes)).text
    assert "None" not in text
    assert "nan" not in text.split("clinic-notes")[0]


def test_a_long_run_is_thinned_and_keeps_its_last_round() -> None:
    page = _page(history=[round_row(n, public=public(0.5)) for n in range(1, 1001)])
    assert "Round by round (200 of 1000)" in _Page(page).text
    assert '<td class="text">1000</td>' in page
    assert '<td class="text">999</td>' not in page


def test_nothing_is_loaded_from_outside() -> None:
    page = _page()
    for tag, attributes in _Page(page).tags:
        assert tag not in ("script", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "action", "onclick", "xlink:href"} & set(attributes)
        assert attributes.get("href", "data:,") == "data:,"
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


def test_hostile_words_stay_words() -> None:
    hostile = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>\" ' &amp; {{ 7*7 }} ‮"
    plan = _plan(task={"labels": [hostile, "b"]}, model={"base": hostile, "sha256": "a" * 64})
    measured = at_sites(missing=["<b>"], failed={hostile: hostile})
    measured["sites"]["recall"] = {hostile: None}
    failed = {"x": hostile}
    history = [round_row(1, answered=[hostile], cohort=[hostile, "x"], failed=failed, missing=["<b>"], **measured)]
    page = _Page(
        _page(
            plan,
            history=history,
            statements={hostile: stated()},
            command=hostile,
            final=public(recall={hostile: 0.5}),
        )
    )
    assert {tag for tag, _ in page.tags} <= _TAGS | _VOID
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert page.texts.count(hostile.strip()) >= 3  # as a site, as a label, as the command
    assert "49" not in page.texts


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_180_000, "1.2 MB"), (438_000_000, "438 MB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.42, "0.42 s"), (12.4, "12 s"), (59.7, "1 min 0 s"), (75, "1 min 15 s"), (7384, "2 h 3 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_page_is_written_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(_page(), encoding="utf-8")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
