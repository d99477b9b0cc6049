"""Classifiers built from a plan: every architecture, both poolings, on tiny bases."""

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from privet.common.adapter import Role, digest
from privet.common.base import base_digest
from privet.common.errors import ModelError
from privet.common.initial import initial_adapter
from privet.common.model import Classifier, build_classifier, initial_arrays, load_tokenizer
from tests.tiny_models import MAX_LENGTH, Kind, tiny_base, tiny_plan, trained

KINDS: tuple[Kind, ...] = ("bert", "roberta", "distilbert")
TEXTS = ["the patient has a fever", "my card was charged twice today", "a rash"]
LAST = {"bert": "classifier", "roberta": "classifier.out_proj", "distilbert": "classifier"}
WIDTH, LABELS, LAYERS, RANK = 32, 3, 2, 4


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Kind, Path]:
    return {kind: tiny_base(tmp_path_factory.mktemp(kind), kind, pooler=False) for kind in KINDS}


def _plan(folder: Path, pooling: str = "mean", **tables: dict[str, Any]) -> Any:
    merged: dict[str, dict[str, Any]] = {"lora": {"rank": RANK}} | tables
    merged["model"] = merged.get("model", {}) | {"pooling": pooling}
    return tiny_plan(folder, base=None, **merged)


def _tokens(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = load_tokenizer(folder)(TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]


def _logits(classifier: Classifier, folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return classifier(*_tokens(folder))  # type: ignore[no-any-return]


def _roles(classifier: Classifier) -> dict[Role, set[str]]:
    return {role: {e.name for e in classifier.spec.entries if e.role is role} for role in Role}


@pytest.fixture(scope="module", params=[(kind, pooling) for kind in KINDS for pooling in ("cls", "mean")], ids=str)
def built(request: pytest.FixtureRequest, bases: Mapping[Kind, Path]) -> tuple[Kind, str, Path, Classifier]:
    kind, pooling = request.param
    return kind, pooling, bases[kind], build_classifier(_plan(bases[kind], pooling), bases[kind])


def test_names_shapes_and_roles(built: tuple[Kind, str, Path, Classifier]) -> None:
    kind, pooling, _, classifier = built
    roles = _roles(classifier)
    assert len(roles[Role.LORA_A]) == len(roles[Role.LORA_B]) == 2 * LAYERS  # query and value
    last = "head" if pooling == "mean" else LAST[kind]
    assert roles[Role.HEAD] == {f"{last}.weight", f"{last}.bias"}
    new = {
        ("bert", "cls"): {"bert.pooler.dense.weight", "bert.pooler.dense.bias"},
        ("roberta", "cls"): {"classifier.dense.weight", "classifier.dense.bias"},
        ("distilbert", "cls"): {"pre_classifier.weight", "pre_classifier.bias"},
    }
    assert roles[Role.NEW] == new.get((kind, pooling), set())
    shapes = {entry.name: entry.shape for entry in classifier.spec.entries}
    assert {shapes[name] for name in roles[Role.LORA_A]} == {(RANK, WIDTH)}
    assert {shapes[name] for name in roles[Role.LORA_B]} == {(WIDTH, RANK)}
    assert {shapes[name] for name in roles[Role.HEAD]} == {(LABELS, WIDTH), (LABELS,)}
    assert list(classifier.spec.names) == sorted(classifier.spec.names)
    assert not any(mark in name for name in shapes for mark in ("default", "base_model", "original", "modules_to_save"))


def test_only_the_adapter_can_be_trained(built: tuple[Kind, str, Path, Classifier]) -> None:
    classifier = built[3]
    moving = {id(parameter) for parameter in classifier.parameters() if parameter.requires_grad}
    assert moving == {id(classifier.parameter(name)) for name in classifier.spec.names}


def test_logits_have_a_row_a_text_and_a_column_a_label(built: tuple[Kind, str, Path, Classifier]) -> None:
    _, _, folder, classifier = built
    logits = _logits(classifier, folder)
    assert logits.shape == (len(TEXTS), LABELS)
    assert not logits.any()  # the last layer starts at zero: every class alike


def test_the_initial_arrays_are_those_derived_from_the_plan(built: tuple[Kind, str, Path, Classifier]) -> None:
    classifier = built[3]
    fresh = build_classifier(classifier.plan, built[2])
    derived = initial_adapter(fresh.spec, fresh.plan.method.seed)
    assert digest(fresh.read()) == digest(derived) == digest(initial_arrays(fresh))
    assert digest(initial_arrays(classifier)) == digest(derived)
    other = build_classifier(_plan(built[2], built[1], method={"seed": 1}), built[2])
    assert other.spec == fresh.spec
    assert digest(other.read()) != digest(derived)


def test_building_does_not_depend_on_torchs_seed(built: tuple[Kind, str, Path, Classifier]) -> None:
    _, pooling, folder, classifier = built
    for seed in (1, 2):
        torch.manual_seed(seed)
        again = build_classifier(classifier.plan, folder)
        state = {
            name: value.numpy()
            for name, value in again.state_dict().items()
            if "original_module" not in name and not (pooling == "mean" and "pooler" in name)  # those are not used
        }
        if seed == 1:
            first = state
    assert state.keys() == first.keys()
    assert all(np.array_equal(state[name], first[name]) for name in first)


def test_what_is_written_is_read_back_and_changes_the_logits(built: tuple[Kind, str, Path, Classifier]) -> None:
    _, pooling, folder, _ = built
    classifier = trained(_plan(folder, pooling, method={"kind": "fedavg"}), folder)
    arrays = classifier.read()
    classifier.spec.check(arrays)
    before = _logits(classifier, folder)
    for name in classifier.spec.names:
        moved = arrays[name] + np.float32(0.5) * np.sign(arrays[name])
        classifier.write({name: moved.astype(np.float32)})  # one alone: the others stay
        found = classifier.read()
        assert np.array_equal(found[name], moved)
        assert all(np.array_equal(found[other], arrays[other]) for other in arrays if other != name)
        assert not torch.equal(_logits(classifier, folder), before), name
        classifier.write({name: arrays[name]})
    assert torch.equal(_logits(classifier, folder), before)
    arrays[classifier.spec.names[0]][:] = 0  # a copy
    assert torch.equal(_logits(classifier, folder), before)


def test_lora_at_zero_is_the_bare_base(built: tuple[Kind, str, Path, Classifier]) -> None:
    """With B = 0 the features are those of the base that transformers loads, whatever A is."""
    import transformers

    kind, pooling, folder, _ = built
    classifier = build_classifier(_plan(folder, pooling), folder).eval()
    ids, mask = _tokens(folder)
    bare = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        hidden = bare(input_ids=ids, attention_mask=mask).last_hidden_state
        found = classifier.features(ids, mask)
        if pooling == "mean":
            weights = mask.unsqueeze(-1).float()
            mean = (hidden * weights).sum(1) / weights.sum(1)
            expected = 10.0 * mean / mean.norm(dim=1, keepdim=True)
        else:
            arrays = {name: torch.from_numpy(array) for name, array in classifier.read().items()}
            first = hidden[:, 0]
            name, activation = {
                "bert": ("bert.pooler.dense", torch.tanh),
                "roberta": ("classifier.dense", torch.tanh),
                "distilbert": ("pre_classifier", torch.relu),
            }[kind]
            expected = activation(first @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_logits_are_the_last_layer_of_the_features(built: tuple[Kind, str, Path, Classifier]) -> None:
    _, pooling, folder, _ = built
    classifier = trained(_plan(folder, pooling, method={"kind": "fedavg"}), folder)
    with torch.inference_mode():
        features = classifier.features(*_tokens(folder))
        expected = classifier.last_layer()(features)
    assert features.shape == (len(TEXTS), WIDTH)
    torch.testing.assert_close(_logits(classifier, folder), expected)


def test_a_step_is_a_function_of_data_and_plan(built: tuple[Kind, str, Path, Classifier]) -> None:
    """No dropout, even in training mode."""
    _, pooling, folder, _ = built
    classifier = trained(_plan(folder, pooling, method={"kind": "fedavg"}), folder).train()
    assert torch.equal(_logits(classifier, folder), _logits(classifier, folder))
    assert all(module.p == 0 for module in classifier.modules() if isinstance(module, torch.nn.Dropout))


def test_padding_does_not_change_a_text(built: tuple[Kind, str, Path, Classifier]) -> None:
    _, pooling, folder, _ = built
    classifier = trained(_plan(folder, pooling, method={"kind": "fedavg"}), folder)
    tokenizer = load_tokenizer(folder)
    found = []
    for length in (16, 32, MAX_LENGTH):
        part = tokenizer(TEXTS[2:], padding="max_length", max_length=length, return_tensors="pt")
        with torch.inference_mode():
            found.append(classifier(part["input_ids"], part["attention_mask"]))
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[2], found[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_targets_and_ranks_of_the_plan_are_taken(bases: Mapping[Kind, Path], kind: Kind) -> None:
    plan = _plan(bases[kind], lora={"rank": 2, "targets": ["query", "key", "value"]})
    roles = _roles(build_classifier(plan, bases[kind]))
    assert len(roles[Role.LORA_A]) == 3 * LAYERS
    single = build_classifier(_plan(bases[kind], lora={"rank": 2, "targets": ["key"]}), bases[kind])
    assert all("k_lin" in name or ".key." in name for name in _roles(single)[Role.LORA_A])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_lora_from_a_later_layer_on(bases: Mapping[Kind, Path], kind: Kind, pooling: str) -> None:
    """Fewer arrays, the same values in those that are left; at B = 0 the very logits of any other first layer."""
    folder = bases[kind]
    whole, zero, upper = (
        build_classifier(_plan(folder, pooling, lora={"rank": RANK, **part}), folder)
        for part in ({}, {"first_layer": 0}, {"first_layer": 1})
    )
    assert zero.spec == whole.spec
    assert digest(zero.read()) == digest(whole.read())
    assert all(np.array_equal(array, whole.read()[name]) for name, array in upper.read().items())
    gone = {entry.name for entry in whole.spec.entries} - {entry.name for entry in upper.spec.entries}
    assert gone == {e.name for e in whole.spec.entries if "lora" in e.role and ".layer.0." in e.name}
    assert len(gone) == 2 * 2  # A and B of query and value
    assert torch.equal(upper.features(*_tokens(folder)), whole.features(*_tokens(folder)))
    moving = {id(parameter) for parameter in upper.parameters() if parameter.requires_grad}
    assert moving == {id(upper.parameter(name)) for name in upper.spec.names}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["head", "fedavg"])
def test_a_first_layer_that_the_base_has_not_is_refused(bases: Mapping[Kind, Path], kind: Kind, method: str) -> None:
    plan = _plan(bases[kind], lora={"first_layer": LAYERS}, method={"kind": method})
    with pytest.raises(ModelError, match="the base has 2 layers") as caught:
        build_classifier(plan, bases[kind])
    assert caught.value.where == "lora.first_layer"
    assert "at most 1" in caught.value.mend


def test_alpha_and_the_feature_scale_count(bases: Mapping[Kind, Path]) -> None:
    folder = bases["bert"]
    tables: list[Any] = [{}, {"lora": {"rank": RANK, "alpha": 1.0}}]
    tables.append({"model": {"feature_scale": 1.0}})
    logits = [_logits(trained(_plan(folder, method={"kind": "fedavg"}, **each), folder), folder) for each in tables]
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    assert not torch.allclose(logits[0], logits[2], atol=1e-3)


def test_features_of_mean_pooling_have_the_plans_length(bases: Mapping[Kind, Path]) -> None:
    folder = bases["roberta"]
    classifier = build_classifier(_plan(folder, model={"feature_scale": 3.0}), folder)
    with torch.inference_mode():
        lengths = classifier.features(*_tokens(folder)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 3.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_texts_longer_than_the_base_are_refused(bases: Mapping[Kind, Path], kind: Kind, pooling: str) -> None:
    folder = bases[kind]
    longest = _plan(folder, pooling, task={"max_length": MAX_LENGTH})
    build_classifier(longest, folder)
    with pytest.raises(ModelError, match=f"max_length {MAX_LENGTH + 1} exceeds") as caught:
        build_classifier(_plan(folder, pooling, task={"max_length": MAX_LENGTH + 1}), folder)
    assert caught.value.where == "task.max_length"
    assert str(MAX_LENGTH) in caught.value.mend


@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_text_that_is_allowed_can_be_read(bases: Mapping[Kind, Path], kind: Kind) -> None:
    folder = bases[kind]
    classifier = build_classifier(_plan(folder, task={"max_length": MAX_LENGTH}), folder)
    ids = torch.full((2, MAX_LENGTH), 7)
    with torch.inference_mode():
        assert classifier(ids, torch.ones_like(ids)).shape == (2, LABELS)


def _with_head(folder: Path, kind: Kind, num_labels: int) -> Path:
    """A base that was saved with a classification head of its own."""
    import transformers

    source = tiny_base(folder / "source", kind)
    torch.manual_seed(9)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=num_labels, local_files_only=True
    )
    target = copytree(source, folder / "with-head")
    model.save_pretrained(target)
    return target


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_labels", [3, 5])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.filterwarnings("ignore")
def test_a_base_that_brings_a_head(tmp_path: Path, kind: Kind, num_labels: int, pooling: str) -> None:
    """Of the same number of labels or another: the last layer is new, what lies below it is the base's."""
    folder = _with_head(tmp_path, kind, num_labels)
    classifier = build_classifier(_plan(folder, pooling), folder)
    roles = _roles(classifier)
    last = "head" if pooling == "mean" else LAST[kind]
    assert roles[Role.HEAD] == {f"{last}.weight", f"{last}.bias"}
    assert roles[Role.NEW] == set()
    assert _logits(classifier, folder).shape == (len(TEXTS), LABELS)
    assert not any(classifier.read()[name].any() for name in roles[Role.HEAD])
    moving = {id(parameter) for parameter in classifier.parameters() if parameter.requires_grad}
    assert moving == {id(classifier.parameter(name)) for name in classifier.spec.names}
    digests = {digest(build_classifier(_plan(folder, pooling), folder).read()) for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_base_that_lacks_weights_is_refused(bases: Mapping[Kind, Path], tmp_path: Path, pooling: str) -> None:
    """Else a part of the encoder would be random, on each machine differently."""
    folder = copytree(bases["bert"], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    lacking = next(name for name in weights if "layer.1" in name and "query.weight" in name)
    save_file({name: array for name, array in weights.items() if name != lacking}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="the weights lack"):
        build_classifier(_plan(folder, pooling), folder)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_base_with_a_weight_of_another_shape_is_refused(
    bases: Mapping[Kind, Path], tmp_path: Path, pooling: str
) -> None:
    folder = copytree(bases["bert"], tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    odd = next(name for name in weights if "layer.1" in name and "query.weight" in name)
    save_file(weights | {odd: np.zeros((16, WIDTH), np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelError):
        build_classifier(_plan(folder, pooling), folder)


def test_the_plans_labels_are_the_models(bases: Mapping[Kind, Path]) -> None:
    classifier: Any = build_classifier(_plan(bases["bert"], "cls"), bases["bert"])
    assert list(classifier.encoder.config.id2label.values()) == ["calm", "urgent", "other"]


def test_a_base_of_another_architecture_is_refused(bases: Mapping[Kind, Path], tmp_path: Path) -> None:
    folder = copytree(bases["bert"], tmp_path / "other")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}), encoding="utf-8")
    with pytest.raises(ModelError, match="gpt2"):
        build_classifier(_plan(folder), folder)
    assert base_digest(folder) != base_digest(bases["bert"])
