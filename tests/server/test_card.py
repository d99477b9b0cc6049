"""The model card runs as written, invents nothing, and says each site's privacy on its own."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData

from privet.common.prediction import Predictor, probabilities
from privet.server.card import NOT_COVERED, loss_text, markdown, model_card, number_text, privacy_json
from privet.server.export import export_adapter
from privet.server.exporting.snippets import hub_id
from tests.server.export_cases import run_snippet, snippet_of
from tests.server.statements import public, stated
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

_TEXT = "The patient has a rash"


def _card(plan: Any, **changes: Any) -> str:
    values: dict[str, Any] = {
        "statements": {"north": stated(), "south": stated(epsilon=7.5)},
        "results": public(),
        "rounds_done": 2,
        "simulated": False,
    }
    return model_card(plan, **(values | changes))


@pytest.mark.slow
def test_snippets_run_as_written_without_privet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    cases: list[tuple[Kind, str, bool]] = [
        ("bert", "mean", True),
        ("roberta", "cls", True),
        ("distilbert", "cls", False),
    ]
    programs, expected = [], []
    for kind, pooling, packaged in cases:
        package, adapter = tmp_path / f"tiny_{kind}", tmp_path / "adapters" / kind
        package.mkdir()
        (package / "__init__.py").touch()
        base = tiny_base(package / "model", kind)
        named = f"package:{package.name}" if packaged else str(base)
        plan = tiny_plan(base, base=named, model={"pooling": pooling}, method={"kind": "fedavg"})
        classifier = trained(plan, base)
        export_adapter(classifier, base, adapter, documents={"README.md": _card(plan)})

        snippet = snippet_of((adapter / "README.md").read_text(encoding="utf-8"))
        program = snippet.replace('adapter = "."', f"adapter = {str(adapter)!r}").replace("Put a text here.", _TEXT)
        assert str(adapter) in program
        assert _TEXT in program
        programs.append(program)
        chances = probabilities(Predictor.load(adapter).predict([_TEXT]))[0]
        assert 0.34 < chances.max() < 1 - 1e-4  # neither blind nor certain, or the comparison would say little
        expected.append((plan.task.labels[int(chances.argmax())], chances.max()))

    for lines, (label, probability) in zip(run_snippet(programs, tmp_path), expected, strict=True):
        line = lines[-1]
        assert line.split()[0] == label
        assert float(line.split()[1]) == pytest.approx(probability, abs=1e-4)


def test_head_of_metadata(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")

    def head(named: str, **changes: Any) -> dict[str, Any]:
        card = _card(tiny_plan(base, base=named), **changes)
        assert card.startswith("---\n")
        data: Any = ModelCard(card).data
        return dict(data.to_dict())

    hub = head("example/tiny-bert")
    assert hub["base_model"] == "example/tiny-bert"
    assert (hub["library_name"], hub["pipeline_tag"]) == ("peft", "text-classification")
    assert hub["metrics"] == ["accuracy", "f1"]
    assert "differential-privacy" in hub["tags"]
    assert "license" not in hub
    for other in (str(base), "package:tinybase", "./models/bert", "C:\\models\\bert", "a: b\n# c"):
        assert "base_model" not in head(other)
    for changes in ({"simulated": True}, {"statements": {"north": stated(guarantee=False, reason="no noise")}}):
        tags = head("example/tiny-bert", **changes)["tags"]
        assert "simulation" in tags
        assert "differential-privacy" not in tags
    assert not {"metrics", "model-index"} & set(head("example/tiny-bert", results=None))
    assert head("example/tiny-bert", licence="apache-2.0")["license"] == "apache-2.0"


def test_results_stand_in_the_model_index(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    at_sites = {"accuracy": 0.7512, "error": 0.0213, "noise_share": 0.31, "recall": {}}
    card = _card(tiny_plan(base), at_sites=at_sites)
    data: Any = ModelCard(card, ignore_metadata_errors=False).data
    assert isinstance(data, ModelCardData)
    found = [(one.dataset_name, one.metric_type, one.metric_name, one.metric_value) for one in data.eval_results or []]
    assert [row[1:] for row in found] == [
        ("accuracy", "accuracy", 0.8125),
        ("f1", "macro F1", pytest.approx(public()["macro_f1"], abs=1e-6)),
        ("accuracy", "accuracy, standard error 0.0213", 0.7512),
    ]
    assert [row[0] for row in found[:2]] == ["the server's public file"] * 2
    assert "noised counts" in found[2][0]
    drowned = at_sites | {"accuracy": None}
    assert "noised counts" not in _card(tiny_plan(base), at_sites=drowned).partition("\n---\n")[0]


def test_a_score_that_is_no_accuracy_keeps_its_name(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    results = {"score": 0.61, "score_name": "micro F1", "macro_f1": 0.5, "loss": 0.2, "num_records": 9}
    at_sites = {"score": 0.58, "score_name": "micro F1", "error": 0.1, "noise_share": 0.5}
    card = _card(plan, results=results, at_sites=at_sites)
    assert "| micro F1 | macro F1 | loss |" in card
    assert "| 0.6100 | 0.5000 | 0.2000 |" in card
    assert "| micro F1 | standard error |" in card
    data: Any = ModelCard(card).data
    assert {one.metric_type for one in data.eval_results} == {"f1"}


def test_a_card_of_entities_tells_of_entities(tmp_path: Path) -> None:
    plan = tiny_plan(
        tiny_base(tmp_path / "base"),
        task={"kind": "tokens", "labels": ["Disease"], "max_length": 16, "buckets": [16]},
        model={"pooling": "none"},
        method={"kind": "fedavg"},
        training={"train_fraction": 0.8},
        evaluation={"release": "per_class"},
    )
    part = {"release": "per_class", "noise_multiplier": 2.0, "evaluations": 3}
    card = _card(plan, statements={"north": stated(evaluation=part, train_fraction=0.8, released=("per_class",))})
    assert "finds entities of 1 type on" in card
    assert "Types: Disease" in card
    assert "| 3 × entities of each type | at most 20.1 % |" in card
    assert "how many entities were found" in card
    assert "counts for less than it has" in card
    assert "rightly" not in card
    assert "per&#95;class" not in card.partition("## Training")[0]


def test_a_relative_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("models/bert") == "models/bert"
    (tmp_path / "models" / "bert").mkdir(parents=True)
    assert hub_id("models/bert") is None


def test_card_says_every_site_on_its_own(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    card = _card(plan)
    rows = {line.split(" | ")[0]: line for line in card.splitlines() if line.startswith(("| north", "| south"))}
    assert rows["| north"].startswith("| north | 2.98 | 5.61 | as a unit | 1e-5 | 1.234 | none |")
    assert rows["| south"].startswith("| south | 7.50 |")
    assert "5.23" not in card  # no average
    assert plan.digest in card
    assert "0.8125" in card
    for line in NOT_COVERED:
        assert line in card
    for sentence in stated().in_words():
        assert markdown(sentence) in card
    for label, value in [*stated().table(), *stated(epsilon=7.5).table()]:
        assert f"| {markdown(label)} | {markdown(value)} |" in card
    words, figures = card.index(markdown(stated().in_words()[0])), card.index("| membership advantage |")
    assert words < figures


def test_card_names_people_metrics_and_their_errors(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    part = {"release": "accuracy", "noise_multiplier": 4.0, "evaluations": 3}
    measured = {"train_fraction": 0.8, "evaluation": part, "released": ("update", "accuracy")}
    held = stated(unit="record", max_per_person=2, epsilon_person=6.661, **measured)
    at_sites = {
        "accuracy": 0.7512,
        "error": 0.0213,
        "noise_share": 0.31,
        "recall": {"calm": {"value": 0.5, "error": 0.125}, "urg|ent": None},
    }
    card = _card(plan, statements={"north": held, "south": stated(unit="record")}, results=None, at_sites=at_sites)
    assert "| north | 2.98 | 5.61 | 6.67 | 1e-5 | 1.234 | 3 × accuracy |" in card
    assert "| south | 2.98 | 5.61 | no claim | 1e-5 | 1.234 | none |" in card
    assert "| 0.7512 | 0.0213 | 31 % |" in card
    assert "| calm | 0.500 | 0.125 |" in card
    assert "| urg&#124;ent | lost in the noise | – |" in card
    assert "than what the results above name" in card
    drowned = at_sites | {"accuracy": None}
    assert "standard error" not in _card(plan, at_sites=drowned)
    assert "was not judged on any text" in _card(plan, results=None)


def test_card_of_a_simulation_guarantees_nothing(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    loose = stated(guarantee=False, reason="a simulation", noise_multiplier=0.0, epsilon=None, epsilon_replace=None)
    card = _card(plan, simulated=True, statements={"north": loose}, results=None)
    assert "Simulation: no guarantee." in card
    assert "| north (no guarantee) | ∞ | ∞ |" in card
    assert "Not measured" in card
    assert "text stayed there" not in card
    assert "Simulation" not in _card(plan)
    assert "No guarantee at north." in _card(plan, statements={"north": loose, "south": stated()})


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    hostile = "x`|</code>\n# y <script>alert(1)</script> [a](http://b) ![c](d)"
    plan = tiny_plan(
        tiny_base(tmp_path / "base"), base=hostile, task={"labels": [hostile, "```\nrm -rf", "plain_label"]}
    )
    results = public(recall={hostile: 0.5})
    card = _card(plan, statements={hostile: stated()}, results=results)
    snippet = snippet_of(card)
    compile(snippet, "snippet", "exec")
    outside = card.replace(snippet, "")
    assert "<script" not in outside
    assert "](" not in outside
    assert "plain_label" in outside
    assert not re.search(r"^# y", card, re.MULTILINE)
    widths = {line.count("|") for line in outside.splitlines() if line.startswith("| ") and "&lt;script" in line}
    assert widths <= {3, 9}  # no text opens a cell of its own


def test_privacy_json_keeps_sites_apart(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    statements = {"south": stated(epsilon=7.5), "north": stated()}
    document = privacy_json(plan, statements, guarantee=True, reason="")
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["guarantee"] is True
    assert document["reason"] == ""
    assert document["plan"] == plan.digest
    assert list(document["sites"]) == ["north", "south"]
    assert document["sites"] == {name: statement.to_json() for name, statement in statements.items()}
    assert set(document) == {"format", "name", "plan", "guarantee", "reason", "adjacency", "sites", "not_covered"}


def test_privacy_json_never_claims_more_than_the_sites(tmp_path: Path) -> None:
    plan = tiny_plan(tiny_base(tmp_path / "base"))
    loose = stated(guarantee=False, reason="no noise is added")
    simulated = privacy_json(plan, {"north": loose}, guarantee=False, reason="a simulation")
    assert (simulated["guarantee"], simulated["reason"]) == (False, "a simulation")
    mixed = privacy_json(plan, {"north": loose, "south": stated()}, guarantee=True, reason="")
    assert (mixed["guarantee"], mixed["reason"]) == (False, "north: no noise is added")
    nobody = privacy_json(plan, {}, guarantee=True, reason="")
    assert nobody["guarantee"] is False
    assert nobody["reason"]


@pytest.mark.parametrize(
    ("value", "text"), [(3.1401, "3.15"), (2.0, "2.00"), (1e-9, "0.01"), (None, "∞"), (float("inf"), "∞")]
)
def test_losses_are_rounded_up(value: float | None, text: str) -> None:
    assert loss_text(value) == text


def test_losses_never_understate() -> None:
    for value in np.random.default_rng(0).uniform(0, 20, 500):
        assert float(value) <= float(loss_text(float(value))) < float(value) + 0.0101


@pytest.mark.parametrize(("value", "text"), [(1e-5, "1e-5"), (1e10, "1e10"), (12.3456, "12.3"), (8.0, "8")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text
