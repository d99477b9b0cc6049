"""`privet evaluate` with a tiny adapter: what it writes, for whose eyes, and what it says of bad input."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from privet.common.cli.evaluate import _map, evaluate
from privet.common.errors import ConfigError, DataError, InputError, ModelError
from privet.common.prediction import Predictor
from privet.server.export import export_adapter
from tests.common.evaluating_cases import write
from tests.server.test_report import check_harmless
from tests.tiny_models import tiny_base, tiny_plan, trained

_TEXTS = ("the patient has a fever", "no", "my card was charged twice", "rash", "chest pain and cough", "please refund")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    base = tiny_base(folder / "base")
    plan = tiny_plan(base, task={"labels": ["calm", "<b>urgent", "other"]}, method={"kind": "fedavg"})
    export_adapter(trained(plan, base), base, folder / "adapter")
    return folder / "adapter"


def _file(folder: Path, num: int = 60) -> Path:
    random = np.random.default_rng(0)
    labels = ("calm", "<b>urgent", "other")
    return write(
        folder / "private.csv",
        [
            {
                "text": f"{_TEXTS[random.integers(6)]} {random.integers(99)}",
                "label": "<i>strange" if i == 7 else labels[random.integers(3)],
                "ward": "<script>a" if i % 2 else "b",
            }
            for i in range(num)
        ],
    )


def test_page_document_and_figures_are_for_their_owner_alone(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = _file(tmp_path), tmp_path / "found"
    before = os.umask(0o000)
    try:
        evaluate(adapter, file, by="ward", output=folder, as_json=True)
    finally:
        os.umask(before)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    names = {"evaluation.html", "evaluation.json", "calibration.png", "confusion.png", "probabilities.png"}
    assert {path.name for path in folder.iterdir()} == names  # and no draft is left
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    stored = json.loads((folder / "evaluation.json").read_text())
    assert told == stored | {key: told[key] for key in ("report", "figures")}
    model = Predictor.load(adapter)
    rows = [line.split(",") for line in file.read_text().splitlines()[1:] if "strange" not in line]
    given = [model.labels[place] for place in model.predict([row[0] for row in rows]).argmax(1)]
    assert told["num_records"] == 59
    assert told["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score([row[1] for row in rows], given))
    assert told["left_out"]["unknown"] == {"num": 1, "rows": [9]}
    page = (folder / "evaluation.html").read_text(encoding="utf-8")
    read = check_harmless(page)
    assert "Private, if the text is." in read.text
    assert "a privacy guarantee of the training covers the adapter" in read.text
    assert f"{100 * told['metrics']['accuracy']['value']:.1f} %" in read.text
    assert "<script>a" in read.text  # as text
    for text in _TEXTS[2:]:
        assert text not in page + json.dumps(stored)


def test_it_says_in_words_that_results_are_private(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("privet.server.report.evaluation.can_draw", lambda: False)
    evaluate(adapter, _file(tmp_path))
    out, err = capsys.readouterr()
    assert out == ""
    assert "If this text is private, so are these figures" in err
    assert "'<i>strange' (1)" in err
    assert "no PNGs: they need matplotlib" in err
    (folder,) = tmp_path.glob("evaluation-private-*")
    assert {path.name for path in folder.iterdir()} == {"evaluation.html", "evaluation.json"}


def test_a_broken_write_leaves_the_earlier_files(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "found"
    evaluate(adapter, _file(tmp_path), output=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        evaluate(adapter, _file(tmp_path, 40), output=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_bad_input_is_told_before_anything_is_made(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    file = _file(tmp_path)
    wrong: tuple[tuple[type[InputError], dict[str, Any]], ...] = (
        (DataError, {"source": tmp_path / "no.csv"}),
        (DataError, {"by": "absent"}),
        (ModelError, {"adapter": tmp_path / "none"}),
        (ConfigError, {"label_map": ["x=unheard"]}),
    )
    for error, given in wrong:
        with pytest.raises(error) as raised:
            evaluate(**{"adapter": adapter, "source": file, "output": folder} | given)
        assert raised.value.exit_code == 2
        assert not folder.exists()
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match="digest"):
        evaluate(adapter, _file(tmp_path), base=str(other), output=folder)


def test_label_maps_of_the_command_line() -> None:
    assert _map(["a = calm", "x=y=other"]) == {"a": "calm", "x=y": "other"}
    for wrong in (["calm"], ["=calm"], ["a="], ["a=calm", "a=other"]):
        with pytest.raises(ConfigError, match="--label-map"):
            _map(wrong)
