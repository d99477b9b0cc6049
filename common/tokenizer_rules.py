"""What a base's tokenizer may be made of.

Whoever offers a plan chooses the base, and with it a tokenizer that reads every record. A pipeline with patterns of
its own (a regular expression that turns a chosen text into a mark, rules that double the mark) can exhaust the memory
exactly where a certain record exists: the process is gone, no exception tells of it, and its absence is an answer that
carries no noise. So a tokenizer is built only from parts whose work is bounded by the length of the text, whatever
the vocabulary holds. None of them takes a pattern.

The bound: normalising, in any order, makes at most 18 characters of one (U+FDFA); each of these is at most 4 by its
bytes, at most one mark is set before each, and each is at most 4 tokens by byte fallback: below 1,000 tokens for a
character. Ordinary text gives at most one. A part stands at most once in a sequence, so that none multiplies its own
work; `privet.common.tokens` caps the characters of a record.

BERT, DistilBERT, RoBERTa, MiniLM, and BERT in many languages or Chinese need nothing else. SentencePiece's character
maps (`Precompiled`, of XLM-R) are refused: a map can write any text for a character.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from privet.common.base import TOKENIZER_FILES
from privet.common.errors import ModelError

NORMALIZERS = frozenset({"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"})
PRE_TOKENIZERS = frozenset(
    {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace", "Punctuation"}
)
POST_PROCESSORS = frozenset({"BertProcessing", "RobertaProcessing", "ByteLevel", "TemplateProcessing"})
MODELS = frozenset({"WordPiece", "BPE", "Unigram", "WordLevel"})
_MODEL_FIELDS = frozenset(
    {
        *("type", "vocab", "merges", "dropout", "unk_token", "unk_id", "fuse_unk", "byte_fallback", "ignore_merges"),
        *("continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word"),
    }
)
CLASSES = frozenset({"BertTokenizer", "DistilBertTokenizer", "RobertaTokenizer", "TokenizersBackend"})
_OTHER_NAMES = ("BertTokenizerFast", "DistilBertTokenizerFast", "RobertaTokenizerFast", "PreTrainedTokenizerFast")

MAX_FILE = 64 * 2**20  # bytes
MAX_DEPTH = 16
MAX_ADDED_TOKENS = 1_000
MAX_TOKEN = 100  # characters of an added, special or unknown token
MAX_PIECE = 1_000  # characters of an entry of the vocabulary
MAX_AFFIX = 16  # characters that mark a piece inside a word
MAX_WORD = 200  # characters of a word that WordPiece cuts into pieces: its work is the square of them
MAX_TEMPLATE = 8  # pieces of a template

_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPECIAL = (*_TOKENS, "additional_special_tokens", "extra_special_tokens")
# Every setting is an argument of the class that the library builds. What is not here could name other files or parts.
_SETTINGS = frozenset(
    {
        *_SPECIAL,
        *("tokenizer_class", "processor_class", "name_or_path", "special_tokens_map_file", "tokenizer_file"),
        *("full_tokenizer_file", "backend", "is_local", "local_files_only", "use_fast", "from_slow", "init_inputs"),
        *("model_max_length", "max_len", "max_length", "stride", "truncation_side", "truncation_strategy"),
        *("padding_side", "pad_to_multiple_of", "pad_token_type_id", "model_input_names", "added_tokens_decoder"),
        *("do_lower_case", "do_basic_tokenize", "never_split", "strip_accents", "tokenize_chinese_chars"),
        *("wordpieces_prefix", "clean_text", "clean_up_tokenization_spaces", "spaces_between_special_tokens"),
        *("add_prefix_space", "trim_offsets", "errors", "split_special_tokens", "add_special_tokens"),
    }
)
_EMPTY = ("init_inputs",)  # may stand there, with nothing in it
_SPACED = ("<mask>", "[MASK]")  # the only tokens that may take the spaces beside them along


def plain_tokenizer(folder: Path) -> Any:
    """The fast tokenizer in `folder`, checked before it is built and again as it is built.

    Raises: ModelError.
    """
    from transformers import AutoTokenizer

    check_files(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the tokenizer's Rust is not an Exception
        raise ModelError(
            f"no usable tokenizer ({type(error).__name__}).", where=str(folder), mend="copy the model again."
        ) from None
    check_loaded(tokenizer, folder)
    return tokenizer


def check_files(folder: Path) -> None:
    """Refuse the base in `folder` where its tokenizer files name anything but plain parts. Nothing of it is run.

    Raises: ModelError, with the file, the part and the mend.
    """
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size > MAX_FILE:
            _refuse(path, f"it has more than {MAX_FILE // 2**20} MiB")
    for name, known in (("tokenizer_config.json", _SETTINGS), ("special_tokens_map.json", frozenset(_SPECIAL))):
        settings = read_object(folder / name)
        for key, value in settings.items():
            if key not in known or (key in _EMPTY and value):
                _refuse(folder / name, f"setting {_short(key)}", "remove this setting, or use a plain encoder")
        _check_class(settings, folder / name)
    _check_class(read_object(folder / "config.json"), folder / "config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        check_pipeline(read_object(path), path)
    elif not (folder / "vocab.txt").is_file() and not all((folder / n).is_file() for n in ("vocab.json", "merges.txt")):
        _refuse(path, "there is no such file, nor vocab.txt, nor vocab.json with merges.txt")
    elif any(folder.glob("*.model")) or (folder / "tekken.json").exists():
        _refuse(folder, "a tokenizer in another format")


def check_loaded(tokenizer: Any, folder: Path) -> None:
    """Refuse a tokenizer that the library has built otherwise than from plain parts: what is checked is what will run,
    settings, defaults and added tokens included.

    Raises: ModelError.
    """
    kind = type(tokenizer)
    if kind.__name__ not in CLASSES or not kind.__module__.startswith("transformers."):
        _refuse(folder, f"a tokenizer of class {_short(kind.__name__)}")
    if tokenizer.truncation_side != "right":
        _refuse(folder / "tokenizer_config.json", "truncation_side is not 'right': a text is read from its start")
    check_pipeline(json.loads(tokenizer.backend_tokenizer.to_str()), folder / "tokenizer.json")


def check_pipeline(document: Mapping[str, Any], path: Path) -> None:
    """Refuse a pipeline in tokenizer.json's form (`document`, read from `path`) with any part that is not plain.

    Truncation, padding and the decoder are let be: encoding sets the first two itself and does not use the third.
    Raises: ModelError.
    """
    try:
        _check_depth(document, path)
        _check_parts(document.get("normalizer"), "normalizers", NORMALIZERS, path, "normalizer")
        before = _check_parts(document.get("pre_tokenizer"), "pretokenizers", PRE_TOKENIZERS, path, "pre_tokenizer")
        for part in before:
            if len(part.get("replacement") or part.get("str_rep") or "_") != 1:
                _refuse(path, f"pre_tokenizer {part['type']}: a replacement of several characters")
        after = _check_parts(document.get("post_processor"), "processors", POST_PROCESSORS, path, "post_processor")
        for part in after:
            _check_post_processor(part, path)
        _check_model(document["model"], path)
        _check_added(document.get("added_tokens") or [], path)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        _refuse(path, f"it is not laid out as a tokenizer is ({type(error).__name__})", "copy the model again")


def _check_parts(part: Any, within: str, known: frozenset[str], path: Path, where: str) -> list[Mapping[str, Any]]:
    """The parts of one stage, every kind of them known and there but once."""
    if part is None:
        return []
    parts = part[within] if part["type"] == "Sequence" else [part]
    kinds = [each["type"] for each in parts]
    for kind in kinds:
        if kind not in known:
            _refuse(path, f"{where} {_short(kind)}")
        if kinds.count(kind) > 1:
            _refuse(path, f"{where} {kind}, more than once")
    return list(parts)


def _check_post_processor(part: Mapping[str, Any], path: Path) -> None:
    where = f"post_processor {part['type']}"
    tokens: list[Any] = [part[name][0] for name in ("sep", "cls") if name in part]
    if part["type"] == "TemplateProcessing":
        if len(part["single"]) > MAX_TEMPLATE or len(part["pair"]) > 2 * MAX_TEMPLATE:
            _refuse(path, f"{where}: more than {MAX_TEMPLATE} pieces")
        if sum("Sequence" in piece for piece in part["single"]) != 1:
            _refuse(path, f"{where}: it does not hold the text exactly once")
        if len(part["special_tokens"]) > MAX_TEMPLATE:
            _refuse(path, f"{where}: more than {MAX_TEMPLATE} special tokens")
        for token in part["special_tokens"].values():
            if len(token["ids"]) != 1 or len(token["tokens"]) != 1:
                _refuse(path, f"{where}: a special token of several")
            tokens += token["tokens"]
    _check_lengths(tokens, MAX_TOKEN, path, where)


def _check_model(model: Mapping[str, Any], path: Path) -> None:
    """Early files do not tell the model's kind: every limit is checked whatever the kind."""
    kind = model.get("type")
    if kind is not None and kind not in MODELS:
        _refuse(path, f"model {_short(kind)}")
    for field in model.keys() - _MODEL_FIELDS:
        _refuse(path, f"model: {_short(field)}")
    if model.get("dropout"):
        _refuse(path, "model: dropout")
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > MAX_WORD:
        _refuse(path, f"model: max_input_chars_per_word above {MAX_WORD}")
    _check_lengths([model.get("unk_token") or ""], MAX_TOKEN, path, "model: unk_token")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check_lengths([model.get(affix) or ""], MAX_AFFIX, path, f"model: {affix}")
    vocabulary = model["vocab"]
    pieces = vocabulary if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    _check_lengths(pieces, MAX_PIECE, path, "model: vocab")


def _check_added(tokens: Iterable[Mapping[str, Any]], path: Path) -> None:
    where, seen = "added_tokens", set()
    for token in tokens:
        content = token["content"]
        _check_lengths([content], MAX_TOKEN, path, where)
        if not content or content in seen:
            _refuse(path, f"{where}: one that is empty or there twice")
        seen.add(content)
        if token.get("single_word"):
            _refuse(path, f"{where} {_short(content)}: single_word")
        # Finding the spaces beside a token reads the text anew at each of its places.
        if (token.get("lstrip") or token.get("rstrip")) and content not in _SPACED:
            _refuse(path, f"{where} {_short(content)}: lstrip or rstrip")
    if len(seen) > MAX_ADDED_TOKENS:
        _refuse(path, f"{where}: more than {MAX_ADDED_TOKENS:,}")


def _check_lengths(texts: Iterable[Any], longest: int, path: Path, where: str) -> None:
    for text in texts:
        if not isinstance(text, str) or len(text) > longest:
            _refuse(path, f"{where}: a text of more than {longest:,} characters, or no text")


def _check_class(settings: Mapping[str, Any], path: Path) -> None:
    name = settings.get("tokenizer_class")
    if name is not None and name not in (*CLASSES, *_OTHER_NAMES):
        _refuse(path, f"tokenizer_class {_short(name)}", f"use a base with one of {', '.join(sorted(CLASSES))}")


def _check_depth(document: object, path: Path) -> None:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        inner = [each for each in level if isinstance(each, dict | list)]
        level = [value for each in inner for value in (each.values() if isinstance(each, dict) else each)]
    if level:
        _refuse(path, f"it is nested more than {MAX_DEPTH} deep")


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        _refuse(path, f"it cannot be read ({type(error).__name__})", "copy the model again")
    if not isinstance(found, dict):
        _refuse(path, "it holds no object", "copy the model again")
    return found


def _short(text: object) -> str:
    return repr(str(text)[:40])


def _refuse(path: Path, what: str, mend: str = "use a plain BERT, DistilBERT or RoBERTa tokenizer") -> NoReturn:
    raise ModelError(f"a tokenizer that may not read records: {what}.", where=str(path), mend=f"{mend}.")
