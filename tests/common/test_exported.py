"""The mark of an export: whole folders are known, damaged ones told."""

import json
from pathlib import Path
from typing import Any

import pytest

from privet.common.errors import ModelError
from privet.common.exported import MARKER, read_marker, write_marker

_DIGEST = "ab" * 32


def _export(folder: Path) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "README.md").write_text("card")
    write_marker(folder, "merged", _DIGEST, {"difference": 0.5})
    return folder


def test_a_whole_export_is_known(tmp_path: Path) -> None:
    found = read_marker(_export(tmp_path / "a"))
    assert (found.kind, found.plan_digest, found.check) == ("merged", _DIGEST, {"difference": 0.5})
    assert set(found.files) == {"model.safetensors", "1_Pooling/config.json"}
    (tmp_path / "a" / "README.md").write_text("card, with a licence")  # people's to edit
    read_marker(tmp_path / "a")


def test_half_an_export_is_refused(tmp_path: Path) -> None:
    folder = _export(tmp_path / "a")
    path = folder / "1_Pooling" / "config.json"
    path.write_text("{ }")
    with pytest.raises(ModelError, match=r"not as it was written.*copy the export again"):
        read_marker(folder)
    path.unlink()
    with pytest.raises(ModelError, match=r"lacks 1_Pooling/config\.json"):
        read_marker(folder)
    (folder / MARKER).unlink()
    with pytest.raises(ModelError, match=r"no export.*privet\.json"):
        read_marker(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "pickle"},
        {"plan_digest": "x"},
        {"files": {"../secret": "00"}},
        {"files": {"/etc/passwd": "00"}},
        {"files": []},
        {"check": 3},
    ],
)
def test_a_mark_of_another_make_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = _export(tmp_path / "a") / MARKER
    raw = json.loads(path.read_text()) | change
    path.write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="Mend: copy the export again"):
        read_marker(path.parent)
