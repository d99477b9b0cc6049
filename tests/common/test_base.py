"""Finding a base model and holding it to its digest; nothing here may reach for the network."""

import os
import socket
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from privet.common.base import base_digest, checked_base, resolve_base
from privet.common.errors import ModelError
from privet.common.model import build_classifier, model_type
from tests.tiny_models import tiny_plan


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Sockets that connect nowhere, and an empty cache of the hub's."""
    attempts: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        attempts.append(repr(arguments))
        raise OSError("the network is off")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return attempts


def _copy(base: Path, folder: Path) -> Path:
    copytree(base, folder)
    return folder


def _flip(path: Path, position: int) -> None:
    """Change one byte of a file, and its time: the digest of an unchanged file is remembered by size and time."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))
    _later(path)


def _later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def test_a_folder_is_itself(base: Path, tried: list[str]) -> None:
    assert resolve_base(str(base)) == base
    assert checked_base(str(base), base_digest(base)) == base
    assert tried == []


def test_loading_and_building_ask_nobody(base: Path, tried: list[str]) -> None:
    build_classifier(tiny_plan(base), base)
    assert tried == []


def test_a_package_is_found_without_being_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: list[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, place in (("inside_a_package", "model"), ("beside_the_code", ".")):
        _copy(base, tmp_path / name / place)
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('run!')", encoding="utf-8")
        assert resolve_base(f"package:{name}") == (tmp_path / name / place).resolve()
        assert name not in sys.modules
    assert tried == []


@pytest.mark.parametrize(
    "name", ["no_such_package_here", "", "os", "json", "os.path", "../up", "a b", "tests/../x", "numpy"]
)
def test_a_package_without_a_model_is_told_by_name(name: str, tried: list[str]) -> None:
    with pytest.raises(ModelError, match=r"no installed package|install") as caught:
        resolve_base(f"package:{name}")
    assert caught.value.where == "model.base"
    assert tried == []


def test_a_folder_without_a_model_is_told(tmp_path: Path, tried: list[str]) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve_base(str(tmp_path))
    assert tried == []


@pytest.mark.parametrize(
    "base", ["/no/such/folder", "./nowhere/at/all", "two words", "a/b/c", "\0", "n" * 500, "~nobody-at-all/model"]
)
def test_a_base_that_is_nowhere_is_told_and_never_crashes(base: str) -> None:
    """The text comes from the server's plan: whatever it says, it is a ModelError."""
    with pytest.raises(ModelError) as caught:
        resolve_base(base)
    assert caught.value.mend


def test_a_hub_id_that_cannot_be_fetched_is_told() -> None:
    with pytest.raises(ModelError) as caught:
        resolve_base("someone/some-model")
    assert "someone/some-model" in caught.value.where


def test_another_digest_is_refused_and_both_are_shown(base: Path) -> None:
    with pytest.raises(ModelError) as caught:
        checked_base(str(base), "0" * 64)
    assert base_digest(base)[:12] in caught.value.what
    assert "000000000000" in caught.value.what
    assert caught.value.where == str(base)


def test_the_digest_is_that_of_names_and_contents_only(base: Path, tmp_path: Path) -> None:
    copy = _copy(base, tmp_path / "copy")
    for path in copy.iterdir():
        _later(path)
    (copy / "README.md").write_text("read me", encoding="utf-8")
    (copy / "training_args.bin").write_bytes(b"no part of the model")
    (copy / "pytorch_model.bin").write_bytes(b"nor is this, beside safetensors")
    assert base_digest(copy) == base_digest(base)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("position", [0, -1])
def test_the_digest_changes_with_any_byte(base: Path, tmp_path: Path, name: str, position: int) -> None:
    copy = _copy(base, tmp_path / "copy")
    _flip(copy / name, position)
    assert base_digest(copy) != base_digest(base)
    with pytest.raises(ModelError, match="digest"):
        checked_base(str(copy), base_digest(base))


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "added_tokens.json", "more.safetensors"])
def test_the_digest_changes_with_a_file_more(base: Path, tmp_path: Path, name: str) -> None:
    copy = _copy(base, tmp_path / "copy")
    (copy / name).write_bytes(b"{}")
    assert base_digest(copy) != base_digest(base)


def test_the_digest_changes_with_a_file_less_or_renamed(base: Path, tmp_path: Path) -> None:
    seen = {base_digest(base)}
    copy = _copy(base, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "model-00001.safetensors")
    seen.add(base_digest(copy))
    (copy / "tokenizer_config.json").unlink()
    seen.add(base_digest(copy))
    assert len(seen) == 3


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    copy = _copy(base, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    for call in (lambda: base_digest(copy), lambda: checked_base(str(copy), base_digest(base))):
        with pytest.raises(ModelError, match="pickled") as caught:
            call()
        assert "safetensors" in caught.value.mend


@pytest.mark.parametrize("text", ['{"model_type": "gpt2"}', "{}", '{"model_type": null}'])
def test_another_architecture_is_refused_with_those_that_work(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="a model of type") as caught:
        model_type(tmp_path)
    assert "bert, distilbert, roberta" in caught.value.mend


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_a_damaged_config_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        model_type(tmp_path)
