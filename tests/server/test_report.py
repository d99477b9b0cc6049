"""report.html: true figures, no outside resource, no word of a stranger read as markup."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from privet.common.config import Plan
from privet.server.export import plan_toml
from privet.server.report import Run, duration_text, report_html, size_text
from tests.server.report_runs import crowd, plan_of, rows
from tests.server.statements import at_sites, public, round_row, stated

_VOID = {"meta", "link"}
_TAGS = {
    *("html", "head", "title", "style", "body", "header", "main", "h1", "h2", "h3", "p", "strong", "bdi", "dl"),
    *(
        "div",
        "dt",
        "dd",
        "figure",
        "figcaption",
        "svg",
        "g",
        "desc",
        "line",
        "path",
        "polyline",
        "circle",
        "rect",
        "text",
    ),
    *("span", "table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li", "pre", "code"),
    *("i"),
}
MAX_PAGE = 2_000_000  # bytes


class Page(HTMLParser):
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


def check_harmless(page: str) -> Page:
    """Fails where a page loads anything, runs anything, or holds a tag that no template writes."""
    read = Page(page)
    assert {tag for tag, _ in read.tags} <= _TAGS | _VOID
    for _, attributes in read.tags:
        assert not {"src", "srcset", "action", "xlink:href"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "data:,") == "data:,"
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    return read


def _run(plan: Plan | None = None, **changes: Any) -> Run:
    plan = plan or plan_of()
    values: dict[str, Any] = {
        "path": Path("clinic-20261122T120000Z"),
        "plan": plan,
        "plan_text": plan_toml(plan),
        "history": [round_row(1), round_row(2, public=public())],
        "statements": {"north": stated(), "south": stated(epsilon=7.501)},
        "finished": True,
        "command": "privet server federation.toml",
    }
    values |= changes
    return Run(**values | {"history": rows(*values["history"])})


def _page(plan: Plan | None = None, **changes: Any) -> str:
    return report_html(_run(plan, **changes))


def test_headline_sites_and_cost() -> None:
    history = [
        round_row(1),
        round_row(2, answered=["north"], missing=["south"], seconds=8.0),
        round_row(3, answered=["north"], failed={"south": "round_lost"}, bytes_down=1_000_000, public=public()),
        round_row(4, answered=[], failed={"south": "round_lost"}, missing=["north"], aggregated=False, public=None),
    ]
    page = Page(_page(history=history))
    assert "Accuracy 81.2 % of 1,600 public records, after round 3" in page.text
    assert "Macro F1 0.762 loss 0.625" in page.text
    assert "3 of 40 planned rounds" in page.text
    assert "Largest ε of a site 7.51" in page.text
    spent = {name: page.texts[page.texts.index(name, page.texts.index("Site")) + 4] for name in ("north", "south")}
    assert all(0 < float(value) < 2.98 for value in spent.values())  # 4 rounds of 40
    rows_ = re.sub(r"1e-5 \S+ 1.234", "1e-5 … 1.234", page.text)
    assert "north 2.98 5.61 1e-5 … 1.234 0.064 3 1 no answer ×1" in rows_
    assert "south 7.51 5.61 1e-5 … 1.234 0.064 1 3 no answer ×1, round_lost ×2" in rows_
    assert "2 sites were asked in 4 rounds each: 0 answered every time." in page.text
    assert "Time 14 s 2 s" in page.text
    assert "Sent to sites 1.0 MB 252 kB" in page.text
    assert "Received from sites 8.0 kB 2.0 kB" in page.text
    assert "4 (not used)" in page.text
    assert "privet server federation.toml" in page.text
    assert "round without enough answers" in page.text
    assert f"# plan {plan_of().digest}" in page.text
    for sentence in stated().in_words():
        assert sentence in page.text
    for label, value in stated().table():
        assert f"{label} {value}" in page.text


def test_every_value_of_a_curve_is_an_event_s() -> None:
    history = [round_row(n, public=public(0.1 * n, macro_f1=0.05 * n, loss=3.0 - n)) for n in (1, 2, 5)]
    texts = Page(_page(history=history)).texts
    for n in (1, 2, 5):
        assert f"round {n}, accuracy: {0.1 * n:.4g}" in texts
        assert f"round {n}, macro F1: {0.05 * n:.4g}" in texts
    assert "round 1, loss: 2" in texts
    assert "round 2, loss: 1" in texts


def test_the_sites_metrics_stand_beside_the_public_ones() -> None:
    history = [
        round_row(1),
        round_row(2, **at_sites(0.7)),
        round_row(3, **at_sites(None, failed={"south": "round_lost"}, answered=["north"])),
        round_row(4, **(at_sites(missing=["north", "south"], answered=[]) | {"sites": None})),
        round_row(5, **at_sites(0.8)),
    ]
    text = _page(history=history)
    page = Page(text)
    assert "Accuracy at the sites 80.0 % ± 5.0, 64 % of the variance is privacy noise" in page.text
    assert text.count('class="error s2"') == 2 * 2  # in the wide figure, and in the narrow one
    assert "round 5, accuracy at the sites: 0.8 ± 0.05" in page.texts
    assert "2 0.700 0.050 0.040 210 13 2 3 – – – 210 13 1 south : round_lost 4 – – – – – 0 north" in page.text
    assert "5 (kept) 0.800 0.050 0.040 210 13 2" in page.text
    assert "calm 0.625 0.100 urgent – – lost in the privacy noise" in page.text
    assert "expect a little less" not in page.text
    assert "None" not in page.text


def test_the_kept_rounds_metrics_are_the_ones_told() -> None:
    """Not the last round's, where the plan keeps the best by the sites' own metric."""
    plan = plan_of(
        training={"rounds": 40, "expected_batch": 64, "learning_rate": 0.01, "train_fraction": 0.8},
        evaluation={"release": "per_class", "every": 1, "metric": "sites", "keep": "best"},
    )
    history = [round_row(1, **at_sites(0.6)), round_row(2, **at_sites(0.9)), round_row(3, **at_sites(0.7))]
    page = Page(_page(plan, history=history))
    assert "Accuracy at the sites 90.0 %" in page.text
    assert "Accuracy 52.0 % of 1,600 public records, after round 2" in page.text
    assert "2 (kept)" in page.text
    assert "expect a little less of it" in page.text


def test_sites_metrics_need_no_public_file() -> None:
    page = Page(_page(history=[round_row(1, public=None, **at_sites(0.7))]))
    assert "public records" not in page.text
    assert "Accuracy at the sites 70.0 %" in page.text
    bare = Page(_page(history=[round_row(1, public=None, **at_sites(None))])).text
    assert "no public file to judge on" in bare
    assert "and no site's metrics came" in bare


def test_only_a_simulation_says_that_it_guarantees_nothing() -> None:
    why = "Noise and draws are seeded."
    page = Page(_page(simulated=True, reason=why)).text
    assert "Simulation: no guarantee." in page
    assert f"Nothing here is guaranteed to anybody. {why}" in page
    assert "guaranteed to nobody" in page
    assert "guarantee" not in Page(_page(statements={})).text.partition("Result")[0]
    loose = stated(
        guarantee=False, reason="no noise is added", noise_multiplier=0.0, epsilon=None, epsilon_replace=None
    )
    read = Page(_page(statements={"north": stated(), "south": loose}))
    assert "No guarantee at south : see what they state below." in read.text
    assert "Largest ε of a site ∞" in read.text
    assert "Not drawn: 1 site without a finite ε." in read.text


@pytest.mark.parametrize(
    "changes",
    [
        {"history": [], "statements": {}},
        {"history": [], "statements": {"north": stated()}},
        {"history": [round_row(1, public=None)]},
        {"history": [round_row(1, aggregated=False, public=None, answered=[], missing=["north", "south"])]},
        {"history": [round_row(7)]},
        {"history": [round_row(1, seconds=0.0, bytes_up=0, bytes_down=0)]},
        {"history": [round_row(1, public=public(0.0, macro_f1=0.0, loss=float("nan"), recall={}))]},
        {"statements": {}, "history": [round_row(1, cohort=["stranger"], answered=["stranger"])]},
        {"history": [round_row(1, cohort=[], answered=[], aggregated=False, public=None)]},
    ],
)
def test_sparse_runs_have_a_page(changes: dict[str, Any]) -> None:
    text = check_harmless(_page(**changes)).text
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)


def test_an_unfinished_run_says_so_and_what_could_not_be_read() -> None:
    text = Page(_page(finished=False, command="", notes=("Left out: 3 lines of metrics.jsonl.",))).text
    assert "The run has not come to its end" in text
    assert "What was typed is not recorded" in text
    assert "Left out: 3 lines" in text
    assert "not come to its end" not in Page(_page()).text


def test_a_long_run_is_thinned_and_keeps_its_last_round() -> None:
    page = _page(history=[round_row(n, public=public(0.5)) for n in range(1, 2001)])
    assert "Round by round (200 of 2000)" in Page(page).text
    assert '<td class="text">2000</td>' in page
    assert '<td class="text">1999</td>' not in page
    assert "Each column is the mean of 20 rounds." in page
    assert len(page) < MAX_PAGE


def test_ten_thousand_sites_have_a_bounded_page() -> None:
    events, statements = crowd(10_000, 5, budgets=(0.5, 2), fraction=0.3)
    page = _page(history=events[1:], statements=statements, simulated=True)
    read = check_harmless(page)
    assert len(page.encode()) < MAX_PAGE / 4
    assert "10,000 sites" in read.text
    assert "Quantiles over 24 of 10,000 sites" in read.text
    missed = sum(len(event["missing"]) + len(event["failed"]) for event in events[1:])
    assert missed > 0
    assert "Missed most rounds" in read.text
    largest = max(statements, key=lambda name: statements[name].epsilon or 0.0)
    assert read.texts[read.texts.index("Largest ε") :].count(largest) >= 1
    accuracies = sorted(events[-1]["spread"]["sites"].values())
    assert f"least {accuracies[0]:.3f}" in read.text
    assert f"greatest {accuracies[-1]:.3f}" in read.text
    assert "9,988 between them left out" in read.text


def test_no_deployment_shows_what_a_single_site_reached() -> None:
    """A site's own accuracy is private: where an event has it all the same, the page is silent."""
    history = [round_row(1, spread={"sites": {"north": 0.4321, "south": 0.8765}})]
    assert "0.432" in Page(_page(history=history, simulated=True)).text
    assert "0.432" not in _page(history=history)


def test_nothing_is_loaded_from_outside() -> None:
    page = _page()
    check_harmless(page)
    assert not re.search(r"url\(|@import|https?://|//[a-z]", page)


def test_hostile_words_stay_words() -> None:
    hostile = "</style></title><script>alert(1)</script><img src=x onerror=alert(1)>\" ' &amp; {{ 7*7 }} ‮"
    plan = plan_of(task={"labels": [hostile, "b"]}, model={"base": hostile, "sha256": "a" * 64})
    measured = at_sites(missing=["<b>"], failed={hostile: hostile})
    measured["sites"]["recall"] = {hostile: None}
    told = public(recall={hostile: 0.5}, confusion=[[3, 2], [1, 4]])
    history = [
        round_row(
            n,
            answered=[hostile],
            cohort=[hostile, "x"],
            failed={"x": hostile},
            missing=["<b>"],
            public=told,
            spread={"sites": {hostile: 0.5, "<b>": 0.25}},
            **measured,
        )
        for n in (1, 2)
    ]
    page = check_harmless(
        _page(
            plan,
            path=Path(hostile.replace("/", "∕")),
            history=history,
            statements={hostile: stated()},
            command=hostile,
            simulated=True,
            reason=hostile,
            versions={hostile: hostile},
            notes=(hostile,),
        )
    )
    assert page.texts.count(hostile.strip()) >= 6  # a site, a label, a mistake, the command, a note
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
