"""The adapter's layout without a model: equal to what building the model gives, for every plan and base."""

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from privet.common.adapter import Role
from privet.common.architecture import read_architecture
from privet.common.config.plan import LoraSpec
from privet.common.errors import ModelError
from privet.common.initial import initial_adapter
from privet.common.layout import adapter_spec
from privet.common.model import build_classifier
from tests.tiny_models import MAX_LENGTH, Kind, tiny_base, tiny_plan

KINDS: tuple[Kind, ...] = ("bert", "roberta", "distilbert")
LORAS: tuple[dict[str, Any], ...] = (
    {"rank": 4},
    {"rank": 2, "targets": ["value", "key", "query"]},
    {"rank": 3, "targets": ["key"]},
    *([{"rank": 2, "first_layer": 1}] if "first_layer" in LoraSpec.model_fields else []),
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[Kind, bool], Path]:
    """With and without a pooler in the file."""
    return {
        (kind, pooler): tiny_base(tmp_path_factory.mktemp(kind), kind, pooler=pooler)
        for kind, pooler in product(KINDS, (True, False))
    }


def _plan(folder: Path, pooling: str, **tables: dict[str, Any]) -> Any:
    return tiny_plan(folder, base=None, **tables, model={"base": str(folder), "pooling": pooling, "sha256": "0" * 64})


def _edited(source: Path, target: Path, **changes: Any) -> Path:
    """A copy whose config.json is changed."""
    copytree(source, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return target


def _rewritten(source: Path, target: Path, change: Any) -> Path:
    """A copy whose weights are what `change` makes of them."""
    copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_is_the_built_models(
    bases: Mapping[tuple[Kind, bool], Path], kind: Kind, pooler: bool, pooling: str, lora: dict[str, Any]
) -> None:
    folder = bases[kind, pooler]
    plan = _plan(folder, pooling, lora=lora, method={"seed": 3})
    built = build_classifier(plan, folder)
    spec = adapter_spec(plan, folder)
    assert spec == built.spec
    initial = initial_adapter(spec, 3)
    assert all(np.array_equal(array, initial[name]) for name, array in built.read().items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("num_labels", [3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_brings_a_head(tmp_path: Path, kind: Kind, num_labels: int, pooling: str) -> None:
    import transformers

    source = tiny_base(tmp_path / "source", kind)
    torch.manual_seed(9)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=num_labels, local_files_only=True
    )
    folder = copytree(source, tmp_path / "with-head")
    model.save_pretrained(folder)
    plan = _plan(folder, pooling)
    spec = adapter_spec(plan, folder)
    assert spec == build_classifier(plan, folder).spec
    assert not any(entry.role is Role.NEW for entry in spec.entries)


def test_a_half_stored_layer_below_the_head(bases: Mapping[tuple[Kind, bool], Path], tmp_path: Path) -> None:
    def without_bias(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: array for name, array in weights.items() if name != "pooler.dense.bias"}

    folder = _rewritten(bases["bert", True], tmp_path / "half", without_bias)
    plan = _plan(folder, "cls")
    spec = adapter_spec(plan, folder)
    assert spec == build_classifier(plan, folder).spec
    assert [entry.name for entry in spec.entries if entry.role is Role.NEW] == ["bert.pooler.dense.bias"]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_building_refuses_is_refused(
    bases: Mapping[tuple[Kind, bool], Path], tmp_path: Path, kind: Kind, pooling: str
) -> None:
    source = bases[kind, True]
    name = next(name for name in load_file(source / "model.safetensors") if "layer.1" in name and "weight" in name)
    lacking = _rewritten(source, tmp_path / "lacking", lambda w: {n: a for n, a in w.items() if n != name})
    odd = _rewritten(source, tmp_path / "odd", lambda w: w | {name: np.zeros((16, 32), np.float32)})
    deeper = _edited(source, tmp_path / "deeper", **{"n_layers" if kind == "distilbert" else "num_hidden_layers": 3})
    coded = _edited(source, tmp_path / "coded", auto_map={"AutoModel": "x.Y"})
    torn = copytree(source, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ModelError, match="cannot be loaded"):
        adapter_spec(_plan(torn, pooling), torn)
    for folder in (lacking, odd, deeper, coded):
        for refusing in (adapter_spec, build_classifier):
            with pytest.raises(ModelError):
                refusing(_plan(folder, pooling), folder)
    longer = _plan(source, pooling, task={"max_length": MAX_LENGTH + 1})
    for refusing in (adapter_spec, build_classifier):
        with pytest.raises(ModelError, match=f"exceeds the base's {MAX_LENGTH} positions"):
            refusing(longer, source)


def test_a_base_that_is_not_a_plain_encoder_is_left_to_the_library(
    bases: Mapping[tuple[Kind, bool], Path], tmp_path: Path
) -> None:
    source = bases["bert", True]
    changes: tuple[dict[str, Any], ...] = (
        {"is_decoder": True, "add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
    )
    for number, change in enumerate(changes):
        folder = _edited(source, tmp_path / str(number), **change)
        assert adapter_spec(_plan(folder, "mean"), folder) is None
    same = _edited(source, tmp_path / "same", is_decoder=False, pruned_heads={}, position_embedding_type="absolute")
    assert adapter_spec(_plan(same, "mean"), same) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_what_config_json_does_not_say_is_the_librarys_default(tmp_path: Path, kind: Kind) -> None:
    import transformers

    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    found, config = read_architecture(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    assert (found.vocabulary, found.positions, found.padding) == (
        config.vocab_size,
        config.max_position_embeddings,
        config.pad_token_id,
    )
    assert (found.width, found.depth, found.heads) == (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    )
    if kind == "distilbert":
        assert (found.inner, found.activation) == (config.hidden_dim, config.activation)
    else:
        assert (found.inner, found.activation) == (config.intermediate_size, config.hidden_act)
        assert (found.types, found.epsilon) == (config.type_vocab_size, config.layer_norm_eps)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 32.0}, {"num_hidden_layers": 0}, {"hidden_act": 3}, {"pad_token_id": "0"}], ids=str
)
def test_a_configuration_of_other_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"} | change), encoding="utf-8")
    with pytest.raises(ModelError, match=next(iter(change))):
        read_architecture(tmp_path)
