"""Tiny base models with random weights, in the files that a real base has: for tests on one core in milliseconds."""

import string
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from privet.common.base import base_digest
from privet.common.config import Plan
from privet.common.model import Classifier, build_classifier

Kind = Literal["bert", "roberta", "distilbert"]

WORDS = (
    *(
        "the",
        "patient",
        "has",
        "a",
        "fever",
        "and",
        "cough",
        "no",
        "pain",
        "in",
        "heart",
        "chest",
        "skin",
        "rash",
        "card",
    ),
    *("was", "charged", "twice", "please", "refund", "my", "account", "is", "locked", "transfer", "failed", "today"),
)
MAX_LENGTH = 128  # positions that every tiny base has

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def tiny_base(folder: Path, kind: Kind = "bert", seed: int = 0, *, pooler: bool = True) -> Path:
    """Write config.json, model.safetensors and a fast tokenizer into `folder`; returns it.

    The weights are a headless encoder's. `pooler=False` leaves out BERT's and RoBERTa's pooler, as masked language
    models do: a sequence classifier on such a BERT gets a newly initialised one. DistilBERT never has one.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = _byte_tokenizer() if kind == "roberta" else _wordpiece_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,  # large, so that texts differ visibly
    }
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "bert":
            config = transformers.BertConfig(max_position_embeddings=MAX_LENGTH, **_SHAPE, **settings)
            model = transformers.BertModel(config, add_pooling_layer=pooler)
        elif kind == "roberta":
            config = transformers.RobertaConfig(max_position_embeddings=MAX_LENGTH + 2, **_SHAPE, **settings)
            model = transformers.RobertaModel(config, add_pooling_layer=pooler)
        else:
            config = transformers.DistilBertConfig(
                dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=MAX_LENGTH, **settings
            )
            model = transformers.DistilBertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_plan(folder: Path, *, base: str | None = None, **tables: dict[str, Any]) -> Plan:
    """A valid plan of three labels on the tiny base in `folder`; `tables` are merged into its tables.

    base: `model.base` as the plan shall say it; the folder's path unless told.
    """
    raw: dict[str, dict[str, Any]] = {
        "task": {"labels": ["calm", "urgent", "other"], "max_length": 32},
        "model": {"base": base or str(folder), "sha256": base_digest(folder)},
        "training": {"rounds": 2, "expected_batch": 4, "learning_rate": 0.1},
    }
    merged = {name: raw.get(name, {}) | tables.get(name, {}) for name in {*raw, *tables}}
    return Plan.model_validate({"format": 1, "name": "tiny"} | merged)


def trained(plan: Plan, folder: Path, seed: int = 0) -> Classifier:
    """The plan's classifier with random values in every array that its method trains, in eval mode."""
    classifier = build_classifier(plan, folder)
    roles = {"head": {"head"}, "ffa": {"head", "new", "lora_B"}}.get(plan.method.kind)
    random = np.random.default_rng(seed)
    classifier.write(
        {
            entry.name: random.normal(0, 0.3, entry.shape).astype(np.float32)
            for entry in classifier.spec.entries
            if roles is None or entry.role in roles
        }
    )
    return classifier.eval()


def _wordpiece_tokenizer() -> Any:
    """BERT's and DistilBERT's: lower-cased words of `WORDS`, all else letter by letter."""
    from transformers import BertTokenizerFast

    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs), *WORDS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH)


def _byte_tokenizer() -> Any:
    """RoBERTa's: byte by byte, without merges."""
    from transformers import RobertaTokenizerFast

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *signs, "<mask>"])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return RobertaTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH)
