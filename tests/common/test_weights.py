"""A base's weights without transformers: what transformers loads, on memory that processes share."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from privet.common.errors import ModelError
from privet.common.weights import BaseWeights
from tests.tiny_models import Kind, tiny_base

KINDS: tuple[Kind, ...] = ("bert", "roberta", "distilbert")
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Kind, Path]:
    return {kind: tiny_base(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def _copy(source: Path, target: Path, change: Callable[[Arrays], Arrays]) -> Path:
    copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    return target


def _theirs(folder: Path) -> dict[str, torch.Tensor]:
    """The bare encoder's state as transformers loads it, without what mean pooling does not use."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.")}


def _same(folder: Path) -> None:
    weights, theirs = BaseWeights(folder), _theirs(folder)
    assert set(weights) == set(theirs)
    assert len(weights) == len(theirs)
    for name, tensor in theirs.items():
        assert weights[name].dtype == np.float32
        assert np.array_equal(weights[name], tensor.numpy()), name
        assert torch.equal(weights.tensor(name), tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_arrays_are_those_that_transformers_loads(bases: Mapping[Kind, Path], kind: Kind) -> None:
    _same(bases[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_saved_from_a_model_around_it(bases: Mapping[Kind, Path], tmp_path: Path, kind: Kind) -> None:
    """Prefixed names, a head beside them, and LayerNorm's names of early checkpoints."""

    def prefixed(arrays: Arrays) -> Arrays:
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
            for name, array in arrays.items()
        }
        head = {"classifier.weight": np.zeros((2, 32), np.float32), "cls.predictions.bias": np.zeros(3, np.float32)}
        return {f"{kind}.{name}": array for name, array in old.items()} | head

    _same(_copy(bases[kind], tmp_path / "prefixed", prefixed))


@pytest.mark.parametrize("kind", KINDS)
def test_shards_by_their_index(bases: Mapping[Kind, Path], tmp_path: Path, kind: Kind) -> None:
    folder = copytree(bases[kind], tmp_path / "shards")
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    where = {name: f"model-0000{1 + index % 3}-of-00003.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: arrays[name] for name in names if where[name] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    _same(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(bases: Mapping[Kind, Path], tmp_path: Path, dtype: torch.dtype) -> None:
    folder = copytree(bases["bert"], tmp_path / "half")
    arrays = load_file(bases["bert"] / "model.safetensors")
    extremes = np.array([[np.float32(v) for v in (0.0, -0.0, 1e-30, -65504.0, 3.140625, np.inf, -np.inf, 1e-40)] * 4])
    arrays["embeddings.token_type_embeddings.weight"][:1] = extremes
    tensors = {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    _same(folder)


def test_an_array_is_the_files_own_memory(bases: Mapping[Kind, Path], tmp_path: Path) -> None:
    """Mapped: two processes hold one copy. Writing changes neither the file nor what is read anew."""
    folder = copytree(bases["bert"], tmp_path / "base")
    content = (folder / "model.safetensors").read_bytes()
    weights, name = BaseWeights(folder), "embeddings.word_embeddings.weight"
    base: Any = weights[name]
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    tensor = weights.tensor(name)
    before = tensor.clone()
    tensor += 1
    assert (folder / "model.safetensors").read_bytes() == content
    assert torch.equal(BaseWeights(folder).tensor(name), before)


def _without(part: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without("layer.1.attention.self.query.bias"), "lack encoder.layer.1.attention.self.query.bias"),
        (lambda a: a | {"embeddings.LayerNorm.bias": np.zeros(16, np.float32)}, "another shape"),
        (lambda a: a | {"bert.embeddings.LayerNorm.bias": np.zeros(32, np.float32)}, "LayerNorm.bias twice"),
        (lambda a: a | {"embeddings.LayerNorm.bias": np.zeros(32, np.int32)}, "of type I32"),
    ],
)
def test_what_is_not_the_encoder_is_refused(
    bases: Mapping[Kind, Path], tmp_path: Path, change: Callable[[Arrays], Arrays], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        BaseWeights(_copy(bases["bert"], tmp_path / "odd", change))


@pytest.mark.parametrize("damage", [lambda c: c[:-4], lambda c: c + b"\0" * 4, lambda c: b"", lambda c: b"\xff" * 64])
def test_a_damaged_file_is_told(bases: Mapping[Kind, Path], tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = copytree(bases["bert"], tmp_path / "damaged")
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="cannot be loaded"):
        BaseWeights(folder)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/model.safetensors"}},
        {"weight_map": {"a": "model.bin"}},
        {"weight_map": {"a": 3}},
        {"weight_map": {}},
        {"weight_map": []},
        {},
        [],
    ],
    ids=str,
)
def test_an_index_names_files_of_the_folder_alone(bases: Mapping[Kind, Path], tmp_path: Path, index: object) -> None:
    """Others have no part in the base's digest."""
    folder = copytree(bases["bert"], tmp_path / "base")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        BaseWeights(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        BaseWeights(folder)


def test_another_model_than_the_plain_encoder_is_refused(bases: Mapping[Kind, Path], tmp_path: Path) -> None:
    folder = copytree(bases["bert"], tmp_path / "decoder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}), encoding="utf-8")
    with pytest.raises(ModelError, match="is_decoder"):
        BaseWeights(folder)


def test_the_arrays_need_no_torch(bases: Mapping[Kind, Path]) -> None:
    code = """
import sys
from pathlib import Path
from privet.common.weights import BaseWeights
assert sum(array.size for array in BaseWeights(Path(sys.argv[1])).values()) > 1000
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(bases["bert"])], check=True)
