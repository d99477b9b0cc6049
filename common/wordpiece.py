"""BERT's tokenizer on the `tokenizers` library alone: no transformers, which takes seconds to import.

It is the very pipeline that transformers builds for a BERT or DistilBERT base (a test holds their serialised forms
equal), under the same checks. A base whose files say anything beyond the ordinary is left to transformers.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from privet.common.architecture import model_type, refuse_code
from privet.common.errors import ModelError
from privet.common.tokenizer_rules import check_files, check_pipeline, plain_tokenizer, read_object

_CLASSES = ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast")
_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
# Settings of tokenizer_config.json that change no id: what a call or the class itself sets, or what nothing reads.
_WITHOUT_EFFECT = frozenset(
    {
        *(
            "tokenizer_class",
            "name_or_path",
            "special_tokens_map_file",
            "is_local",
            "local_files_only",
            "processor_class",
        ),
        *("model_max_length", "max_length", "stride", "truncation_strategy", "padding_side", "pad_to_multiple_of"),
        *("pad_token_type_id", "do_basic_tokenize", "never_split", "clean_up_tokenization_spaces"),
    }
)
_EMPTY = ("bos_token", "eos_token", "additional_special_tokens", "extra_special_tokens", "init_inputs")
_MANY = 100_000  # pieces, from which on transformers looks whether it must mend the pipeline


class WordPieceTokenizer:
    """Called as transformers' tokenizers are in `privet.common.tokens`; one thread at a time."""

    def __init__(self, backend: Any, pad_token_id: int) -> None:
        self.backend, self.pad_token_id = backend, pad_token_id
        self._truncation: tuple[int, int] | None = None

    def __call__(
        self,
        texts: list[str],
        *,
        truncation: bool,
        max_length: int,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        return_attention_mask: bool = False,
    ) -> dict[str, list[Any]]:
        """`input_ids`: a row of each text, cut at `max_length` tokens; with `return_overflowing_tokens` of each window,
        and in `overflow_to_sample_mapping` whose it is.

        Raises: ValueError for what else transformers could do; whatever the library does for a text it cannot read.
        """
        if not truncation or return_attention_mask:
            raise ValueError("Expected truncation=True and return_attention_mask=False.")
        if self._truncation != (max_length, stride):
            self.backend.enable_truncation(max_length, stride=stride, strategy="longest_first", direction="right")
            self._truncation = max_length, stride
        found = self.backend.encode_batch(texts)
        if not return_overflowing_tokens:
            return {"input_ids": [each.ids for each in found]}
        rows = [(window.ids, owner) for owner, each in enumerate(found) for window in (each, *each.overflowing)]
        return {
            "input_ids": [ids for ids, _ in rows],
            "overflow_to_sample_mapping": [owner for _, owner in rows],
        }


def quick_tokenizer(folder: Path) -> Any:
    """The base's tokenizer for `privet.common.tokens`: without transformers where the base is an ordinary one, else
    what `load_tokenizer` gives. The ids, and what is refused, are the same.

    Raises: ModelError.
    """
    refuse_code(folder)
    return wordpiece_tokenizer(folder) or plain_tokenizer(folder)


def wordpiece_tokenizer(folder: Path) -> WordPieceTokenizer | None:
    """The tokenizer of an ordinary BERT or DistilBERT base; None where only transformers tells what its files mean.

    Raises: ModelError for what may not read records.
    """
    check_files(folder)
    settings = read_object(folder / "tokenizer_config.json")
    document = read_object(folder / "tokenizer.json")
    try:
        if not _ordinary(folder, settings, document):
            return None
    except (AttributeError, KeyError, TypeError, ValueError, ModelError):
        return None
    vocabulary = document["model"]["vocab"]
    try:
        backend = _pipeline(settings, vocabulary)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the tokenizer's Rust is not an Exception
        raise ModelError(
            f"no usable tokenizer ({type(error).__name__}).", where=str(folder), mend="copy the model again."
        ) from None
    check_pipeline(json.loads(backend.to_str()), folder / "tokenizer.json")
    return WordPieceTokenizer(backend, vocabulary[_TOKENS["pad_token"]])


def _ordinary(folder: Path, settings: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    model, truncation = document["model"], document.get("truncation") or {}
    vocabulary = model["vocab"]
    specials = read_object(folder / "special_tokens_map.json")
    known = {*_WITHOUT_EFFECT, *_EMPTY, *_TOKENS, "backend", "truncation_side", "split_special_tokens"}
    known |= {"do_lower_case", "tokenize_chinese_chars", "strip_accents", "added_tokens_decoder", "model_input_names"}
    decoder = settings.get("added_tokens_decoder", {})
    return (
        model_type(folder) in ("bert", "distilbert")
        and settings.get("tokenizer_class") in _CLASSES
        and settings.keys() <= known
        and not any(settings.get(key) for key in _EMPTY)
        and settings.get("backend", "tokenizers") == "tokenizers"
        and settings.get("truncation_side", "right") == "right"
        and truncation.get("direction", "Right") == "Right"
        and settings.get("split_special_tokens", False) is False
        and "input_ids" in settings.get("model_input_names", ["input_ids"])
        and settings.get("do_lower_case", True) in (True, False)
        and settings.get("tokenize_chinese_chars", True) in (True, False)
        and settings.get("strip_accents") in (True, False, None)
        and not (folder / "added_tokens.json").exists()
        and model["type"] == "WordPiece"
        and isinstance(vocabulary, dict)
        and len(vocabulary) <= _MANY
        and all(type(number) is int for number in vocabulary.values())
        and all(content in vocabulary for content in _TOKENS.values())
        and _as_usual(settings, ())
        and _as_usual(specials, _EMPTY)
        and all(_plain_token(token) for token in document["added_tokens"])
        and all(token["id"] == vocabulary[token["content"]] for token in document["added_tokens"])
        and all(_plain_token(token) for token in decoder.values())
        and all(int(number) == vocabulary[token["content"]] for number, token in decoder.items())
    )


def _as_usual(tokens: Mapping[str, Any], empty: Iterable[str]) -> bool:
    """Whether each special token that is named is BERT's own, and those of `empty` are not there."""
    for key, usual in _TOKENS.items():
        value = tokens.get(key, usual)
        if isinstance(value, dict):
            flags = {name: flag for name, flag in value.items() if name not in ("content", "__type")}
            if value["content"] != usual or not flags.items() <= _FLAGS.items():
                return False
        elif value != usual:
            return False
    return not any(tokens.get(key) for key in empty)


def _plain_token(token: Mapping[str, Any]) -> bool:
    return token["content"] in _TOKENS.values() and all(token.get(name) == flag for name, flag in _FLAGS.items())


def _pipeline(settings: Mapping[str, Any], vocabulary: dict[str, int]) -> Any:
    """As transformers' BertTokenizer is built: of its own parts, around the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=_TOKENS["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in _TOKENS.values()])
    first, last = _TOKENS["cls_token"], _TOKENS["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(token, vocabulary[token]) for token in (first, last)],
    )
    return backend
