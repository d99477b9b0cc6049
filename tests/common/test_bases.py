"""Bases and LoRA presets: each kind that works is built, counted and trained the same way; any other is refused by a
list of those that work; Chinese is read character by character."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from privet.client.fused import covers
from privet.client.training import RoundTrainer
from privet.client.update_size import update_bytes
from privet.common.base import base_digest
from privet.common.config import Plan
from privet.common.config.plan import LORA_PRESETS, LoraSpec
from privet.common.errors import ModelError
from privet.common.layout import adapter_spec
from privet.common.methods import method_for
from privet.common.model import build_classifier
from privet.common.prediction import Predictor
from privet.common.wordpiece import WordPieceTokenizer, quick_tokenizer
from privet.simulations import SimulationData, simulate
from tests.tiny_models import Kind, tiny_base, tiny_plan

KINDS: tuple[Kind, ...] = get_args(Kind)
CHARACTERS = "患者有发热咳嗽无胸痛皮疹的今天银行卡被扣款两次请退我账户锁定转失败了"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: tiny_base(folder / kind, kind) for kind in KINDS} | {"chinese": _chinese(folder / "chinese")}


def _chinese(folder: Path, **settings: Any) -> Path:
    """A BERT of word pieces that are single characters, as the Chinese ones are."""
    import transformers

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"0123456789。，mg", "ct", "##t", "##g", *CHARACTERS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer: Any = transformers.BertTokenizerFast(tokenizer_object=backend, model_max_length=64, **settings)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Presets


def test_a_preset_is_its_list_and_no_digest_changed(bases: dict[str, Path]) -> None:
    plain = tiny_plan(bases["bert"])
    assert json.loads(plain.canonical())["lora"]["targets"] == ["query", "value"]
    for name, targets in LORA_PRESETS.items():
        by_name = tiny_plan(bases["bert"], lora={"targets": name})
        assert by_name.lora.targets == targets
        assert by_name.digest == tiny_plan(bases["bert"], lora={"targets": list(targets)}).digest != plain.digest
        assert Plan.model_validate_json(by_name.canonical()) == by_name
    with pytest.raises(ValueError, match="'attention', 'all'"):
        LoraSpec.model_validate({"targets": "everything"})
    with pytest.raises(ValueError, match="targets"):
        LoraSpec.model_validate({"targets": ["pooler"]})


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("targets", ["all", ["intermediate", "query"]], ids=str)
def test_lora_is_where_the_plan_says_on_every_kind(bases: dict[str, Path], targets: Any, pooling: str) -> None:
    for kind, folder in bases.items():
        for first in (0, 1) if kind == "distilbert" else (0,):
            lora = {"targets": targets, "rank": 3, "first_layer": first}
            plan = tiny_plan(folder, lora=lora, model={"pooling": pooling}, method={"kind": "fedavg"})
            classifier = build_classifier(plan, folder)
            assert adapter_spec(plan, folder) == classifier.spec, kind
            places = {name.rsplit(".lora_", 1)[0] for name in classifier.spec.names if ".lora_" in name}
            assert len(places) == (2 - first) * len(plan.lora.targets), kind
            for method in ("head", "ffa", "fedavg"):
                other = tiny_plan(folder, lora=lora, model={"pooling": pooling}, method={"kind": method})
                assert update_bytes(other, folder) == 4 * method_for(other).trainable(classifier.spec, 1).size, kind


def test_the_two_output_layers_are_told_apart(bases: dict[str, Path]) -> None:
    for kind, wanted in (("bert", ".output.dense"), ("distilbert", ".ffn.lin2")):
        plan = tiny_plan(bases[kind], lora={"targets": ["output"]}, method={"kind": "fedavg"})
        spec = build_classifier(plan, bases[kind]).spec
        places = [name for name in spec.names if "lora_A" in name]
        assert len(places) == 2
        assert all(wanted in name and "attention" not in name for name in places)
        assert {entry.shape for entry in spec.entries if "lora_A" in entry.name} == {(8, 64)}


def test_the_fused_engine_says_no_where_it_does_not_compute(bases: dict[str, Path]) -> None:
    for targets, told in (("all", "attention_output, intermediate, output"), ("attention", "attention_output")):
        plan = tiny_plan(bases["bert"], lora={"targets": targets}, method={"kind": "ffa"})
        assert covers(plan, bases["bert"]) == f"LoRA is on {told} too"
    assert covers(tiny_plan(bases["bert"], method={"kind": "ffa"}), bases["bert"]) is None
    assert covers(tiny_plan(bases["chinese"], method={"kind": "ffa"}), bases["chinese"]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_target_pass_the_self_test(bases: dict[str, Path], kind: Kind) -> None:
    """The trainer compares Opacus with one backward pass a row when it is made."""
    plan = tiny_plan(bases[kind], lora={"targets": "all"}, method={"kind": "fedavg"}, task={"buckets": [32]})
    engine = RoundTrainer(plan, bases[kind]).engine(1)
    assert sum("lora_A" in name for name in engine.spec.names) == 12


# Bases that do not work


@pytest.mark.parametrize("kind", ["gpt2", "deberta-v2", "t5", "xlm-roberta", None])
def test_another_base_is_refused_with_the_list_of_those_that_work(
    bases: dict[str, Path], tmp_path: Path, kind: str | None
) -> None:
    for path in bases["bert"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    plan = tiny_plan(tmp_path)
    for build in (lambda: build_classifier(plan, tmp_path), lambda: adapter_spec(plan, tmp_path)):
        with pytest.raises(ModelError) as caught:
            build()
        assert repr(str(kind)) in caught.value.what
        for name in ("bert", "roberta", "distilbert", "Chinese"):
            assert name in caught.value.mend


# Chinese


@pytest.mark.parametrize("chinese", [True, False])
def test_chinese_is_read_character_by_character_as_transformers_does(tmp_path: Path, chinese: bool) -> None:
    import transformers

    folder = _chinese(tmp_path / "base", tokenize_chinese_chars=chinese)
    ours = quick_tokenizer(folder)
    assert isinstance(ours, WordPieceTokenizer)  # our own reader, not transformers'
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [
        "患者有发热，无胸痛。",
        "今天 CT 20mg 咳嗽",
        "患者abc皮疹",
        "",
        "鼻塞有发热",
        "患" * 100,
        "ＣＴ　２０",
        "한국어 ひらがな",
    ]
    found = ours(texts, truncation=True, max_length=16)["input_ids"]
    assert found == theirs(texts, truncation=True, max_length=16)["input_ids"]
    if not chinese:
        assert (
            found[0]
            != quick_tokenizer(_chinese(tmp_path / "other"))(texts, truncation=True, max_length=16)["input_ids"][0]
        )
        return
    vocabulary = theirs.get_vocab()
    assert found[0][1:-1] == [vocabulary[sign] for sign in "患者有发热，无胸痛。"]
    assert len(found[5]) == 16
    assert vocabulary["[UNK]"] in found[4]  # a character that the base does not know costs itself alone
    assert found[4][-4:-1] == [vocabulary[sign] for sign in "有发热"]


# From end to end


def _texts(kind: str) -> SimulationData:
    words = (["患者有发热", "银行卡被扣款", "我账户锁定"] if kind == "chinese" else
             ["the patient has a fever", "my card was charged twice", "please refund today"])  # fmt: skip
    labels = ["calm", "urgent", "other"]
    texts = [f"{words[n % 3]} {n % 7}" for n in range(36)]
    return SimulationData(
        texts,
        [labels[n % 3] for n in range(36)],
        [f"u{n}" for n in range(36)],
        {},
        texts[:9],
        [labels[n % 3] for n in range(9)],
    )


@pytest.mark.parametrize("kind", [*KINDS, "chinese"])
def test_a_federation_on_every_kind_of_base(bases: dict[str, Path], tmp_path: Path, kind: str) -> None:
    training = {"rounds": 2, "local_steps": 2, "expected_batch": 8, "learning_rate": 0.01}
    plan = tiny_plan(
        bases[kind], lora={"targets": "all"}, method={"kind": "ffa"}, training=training, task={"max_length": 16}
    )
    assert plan.model.sha256 == base_digest(bases[kind])
    ran = simulate(plan, _texts(kind), sites=2, epsilon=math.inf, runs=tmp_path, workers=0)
    assert [row["aggregated"] for row in ran.rounds] == [True, True]
    moved = {name for name, array in ran.arrays.items() if "lora_B" in name and array.any()}
    assert len(moved) == 12  # every target of both layers learned
    assert ran.folder is not None
    predictor = Predictor.load(ran.folder / "adapter", str(bases[kind]))
    data = _texts(kind)
    logits = predictor.predict(list(data.test_texts))
    right = [plan.task.labels[i] == label for i, label in zip(logits.argmax(1), data.test_labels, strict=True)]
    assert sum(right) / len(right) == pytest.approx(ran.accuracy)
    assert ran.accuracy > 0.5
