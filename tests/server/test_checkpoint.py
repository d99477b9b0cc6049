"""Checkpoints: everything comes back, a damaged file is told, and a crash leaves the older one whole."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privet.common.adapter import digest
from privet.common.errors import ModelError
from privet.common.methods import State
from privet.server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _checkpoint(round: int = 7, *, momentum: bool = True, seed: int = 0) -> Checkpoint:
    random = np.random.Generator(np.random.PCG64(seed))
    arrays = {"head.weight": random.normal(size=(3, 4)).astype(np.float32), "b/odd name": f32([0.1, -0.0])}
    velocity = {"head.weight": random.normal(size=(3, 4)).astype(np.float32)} if momentum else {}
    sampler: dict[str, Any] = dict(random.bit_generator.state)
    return Checkpoint("ab" * 32, round, round - 2, State(arrays, velocity), sampler)


def _equal(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        (one.plan_digest, one.round, one.completed) == (other.plan_digest, other.round, other.completed)
        and digest(one.state.arrays) == digest(other.state.arrays)
        and digest(one.state.momentum) == digest(other.state.momentum)
        and one.sampler == other.sampler
    )


@pytest.mark.parametrize("momentum", [True, False])
def test_what_was_saved_is_loaded(tmp_path: Path, momentum: bool) -> None:
    kept = _checkpoint(momentum=momentum)
    path = save_checkpoint(kept, tmp_path / "new" / "folder")
    assert path.name == "round-00007.safetensors"
    found = load_checkpoint(path)
    assert _equal(found, kept)
    assert set(found.state.momentum) == set(kept.state.momentum)
    assert os.listdir(path.parent) == [path.name]


def test_the_sampler_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its state holds integers of 128 bits, which JSON must not round."""
    original = np.random.Generator(np.random.PCG64(5))
    original.random(11)
    kept = Checkpoint("0" * 64, 1, 1, State({"x": np.zeros(1, np.float32)}), dict(original.bit_generator.state))
    found = load_checkpoint(save_checkpoint(kept, tmp_path))
    again = np.random.Generator(np.random.PCG64(0))
    again.bit_generator.state = found.sampler
    assert again.random(5).tolist() == original.random(5).tolist()


def test_a_file_cut_short_anywhere_is_no_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(_checkpoint(), tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as caught:
            load_checkpoint(path)
        assert caught.value.where == str(path)
        assert caught.value.mend


@pytest.mark.parametrize(
    "content",
    [
        b"once upon a time, there was no checkpoint",
        b"\x80\x04K\x01.",
        b"\xff" * 40,
        (2).to_bytes(8, "little") + b"{}",
        (5000).to_bytes(8, "little") + b"[" * 5000,
        (6).to_bytes(8, "little") + b'["xy"]',
    ],
)
def test_other_content_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "round-00001.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_checkpoint(path)


@pytest.mark.parametrize("note", [None, "{", "3", "[]", "{}", json.dumps({"plan_digest": "x", "round": 1})])
def test_an_adapter_is_no_checkpoint(tmp_path: Path, note: str | None) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "round-00001.safetensors"
    save_file({"adapter/x": np.zeros(2, np.float32)}, path, None if note is None else {"privet": note})
    with pytest.raises(ModelError):
        load_checkpoint(path)


def test_an_array_of_no_known_part_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "round-00001.safetensors"
    note = json.dumps({"plan_digest": "x", "round": 1, "completed": 1, "sampler": {}})
    save_file({"elsewhere/x": np.zeros(2, np.float32)}, path, {"privet": note})
    with pytest.raises(ModelError):
        load_checkpoint(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "round-00001.safetensors", tmp_path):
        with pytest.raises(ModelError):
            load_checkpoint(path)


@pytest.mark.parametrize("stage", ["write", "rename"])
def test_a_crash_leaves_the_older_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Of the same round even: the name is taken only by a file that is complete and on the disk."""
    older = _checkpoint(seed=1)
    path = save_checkpoint(older, tmp_path)

    def crash(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        if stage == "write":
            patch.setattr("privet.server.checkpoint.os.fsync", crash)
        else:
            patch.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="no space"):
            save_checkpoint(_checkpoint(seed=2), tmp_path)
    assert _equal(load_checkpoint(path), older)
    assert [file.name for file in tmp_path.glob("round-*.safetensors")] == [path.name]
    newer = _checkpoint(seed=3)
    assert _equal(load_checkpoint(save_checkpoint(newer, tmp_path)), newer)
    assert os.listdir(tmp_path) == [path.name]  # what the crash left is gone


def test_the_file_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the content, then the rename, then fsync of the folder."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr("privet.server.checkpoint.os.fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    save_checkpoint(_checkpoint(), tmp_path)
    assert steps == ["content", "rename", "folder"]
