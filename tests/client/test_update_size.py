"""The size of an update from plan and files alone is that of the update."""

import json
from pathlib import Path
from typing import Any

import pytest

from privet.client.update_size import local_base, update_bytes
from privet.common import base as base_module
from privet.common.base import base_digest
from privet.common.config import Site
from privet.common.methods import method_for
from privet.common.model import build_classifier
from tests.client.ledger_cases import make_site
from tests.tiny_models import Kind, tiny_base, tiny_plan


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Kind, bool], Path]:
    folder = tmp_path_factory.mktemp("bases")
    kinds: list[tuple[Kind, bool]] = [("bert", True), ("bert", False), ("roberta", True), ("distilbert", True)]
    return {(kind, pooler): tiny_base(folder / f"{kind}{pooler}", kind, pooler=pooler) for kind, pooler in kinds}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("method", ["head", "ffa", "fedavg"])
def test_the_size_is_that_of_the_built_model(bases: dict[tuple[Kind, bool], Path], pooling: str, method: str) -> None:
    for (kind, pooler), folder in bases.items():
        lora = {"rank": 3, "targets": ["query", "key", "value"] if kind == "roberta" else ["value"]}
        plan = tiny_plan(folder, model={"pooling": pooling}, method={"kind": method}, lora=lora)
        true = 4 * method_for(plan).trainable(build_classifier(plan, folder).spec, 1).size
        assert update_bytes(plan, folder) == true, (kind, pooler)


@pytest.mark.parametrize("method", ["head", "ffa", "fedavg"])
def test_the_size_of_the_upper_layers(bases: dict[tuple[Kind, bool], Path], method: str) -> None:
    for (kind, _), folder in bases.items():
        plan = tiny_plan(folder, method={"kind": method}, lora={"rank": 3, "first_layer": 1})
        true = 4 * method_for(plan).trainable(build_classifier(plan, folder).spec, 1).size
        assert update_bytes(plan, folder) == true, kind
    beyond = tiny_plan(bases["bert", True], method={"kind": "ffa"}, lora={"first_layer": 2})
    assert update_bytes(beyond, bases["bert", True]) is None


def test_no_weight_is_loaded(bases: dict[tuple[Kind, bool], Path], tmp_path: Path) -> None:
    """A file whose header is whole and whose weights are cut off is enough."""
    folder = bases["bert", False]
    plan = tiny_plan(folder, model={"pooling": "cls"}, method={"kind": "ffa"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert update_bytes(plan, tmp_path) == update_bytes(plan, folder)
    assert update_bytes(plan, None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"model_type": ["bert"]},
        {"hidden_size": "32"},
        {"hidden_size": -1},
        {"num_hidden_layers": 10**30},
        {"num_hidden_layers": True},
        {"add_cross_attention": True},
    ],
)
def test_a_config_of_another_kind_gives_no_number(
    bases: dict[tuple[Kind, bool], Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    plan, folder = tiny_plan(bases["bert", True]), bases["bert", True]
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    assert update_bytes(plan, tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (1 << 20) + "{}"])
def test_a_config_that_is_none_gives_no_number(bases: dict[tuple[Kind, bool], Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert update_bytes(tiny_plan(bases["bert", True]), tmp_path) is None


def _site(base: Path | None) -> Site:
    return make_site(name="tiny", member={} if base is None else {"base": str(base)})


def test_a_base_is_looked_for_on_this_machine_alone(
    bases: dict[tuple[Kind, bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, ...]] = []

    def from_hub(base: str, attempts: tuple[bool, ...]) -> Path:
        asked.append(attempts)
        raise OSError("no network")

    monkeypatch.setattr(base_module, "_from_hub", from_hub)
    folder = bases["bert", True]
    assert local_base(tiny_plan(folder), _site(None)) == folder
    elsewhere = tiny_plan(folder, base="someone/some-model")
    assert local_base(elsewhere, _site(None)) is None
    assert asked == [(True,)]  # only the local cache
    assert local_base(elsewhere, _site(folder)) == folder  # the site's own copy
    assert local_base(elsewhere, _site(bases["bert", False])) is None  # another digest
    assert base_digest(folder) != base_digest(bases["bert", False])
    assert local_base(elsewhere, _site(tmp_path / "gone")) is None
