"""The model card runs as written, invents nothing, and says each site's privacy on its own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from privet.common.prediction import Predictor, probabilities
from privet.server.card import NOT_COVERED, hub_id, loss_text, markdown, model_card, number_text, privacy_json
from privet.server.export import export_adapter
from tests.server.statements import public, stated
from tests.tiny_models import Kind, tiny_base, tiny_plan, trained

_TEXT = "The patient has a rash"
_RUN_EACH = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "privet":
            raise ImportError("the snippet needs privet")

sys.meta_path.insert(0, Refuse())
for program in json.load(sys.stdin):
    exec(compile(program, "snippet", "exec"), {})
"""


def _card(plan: Any, **changes: Any) -> str:
    values: dict[str, Any] = {
        "statements": {"north": stated(), "south": stated(epsilon=7.5)},
        "results": public(),
        "rounds_done": 2,
        "simulated": False,
    }
    return model_card(plan, **(values | changes))


def _snippet(card: str) -> str:
    found = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


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

        snippet = _snippet((adapter / "README.md").read_text(encoding="utf-8"))
        program = snippet.replace('adapter = "."', f"adapter = {str(adapter)!r}").replace("Put a text here.", _TEXT)
        assert str(adapter) in program
        assert _TEXT in program
        programs.append(program)
        chances = probabilities(Predictor.load(adapter).predict([_TEXT]))[0]
        assert 0.34 < chances.max() < 1 - 1e-4  # neither blind nor certain, or the comparison would say little
        expected.append((plan.task.labels[int(chances.argmax())], chances.max()))

    done = subprocess.run(
        [sys.executable, "-c", _RUN_EACH],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": str(tmp_path),
            "PATH": "",
        },
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for line, (label, probability) in zip(done.stdout.splitlines(), expected, strict=True):
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
    assert "metrics" not in head("example/tiny-bert", results=None)


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
    snippet = _snippet(card)
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
