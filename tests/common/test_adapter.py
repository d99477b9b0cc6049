"""The adapter: flat vector and named arrays, what is refused, digest and file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from privet.common.adapter import MAX_WEIGHT, AdapterSpec, Entry, Role, digest, load, save
from privet.common.errors import ModelError, WireError


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


SPEC = AdapterSpec(
    (
        Entry("layer.lora_A.weight", (2, 3), Role.LORA_A),
        Entry("layer.lora_B.weight", (4, 2), Role.LORA_B),
        Entry("head.bias", (3,), Role.HEAD),
    )
)
names = st.text("abc.", min_size=1, max_size=6)
shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
specs = st.dictionaries(names, shapes, min_size=1, max_size=5).map(
    lambda entries: AdapterSpec(tuple(Entry(name, shape, Role.HEAD) for name, shape in entries.items()))
)


def _arrays(spec: AdapterSpec = SPEC, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {entry.name: random.normal(size=entry.shape).astype(np.float32) for entry in spec.entries}


@given(specs)
def test_flat_and_named_are_two_forms_of_one_thing(spec: AdapterSpec) -> None:
    arrays = _arrays(spec)
    flat = spec.flatten(dict(reversed(arrays.items())))
    assert flat.shape == (spec.size,)
    assert flat.dtype == np.float32
    back = spec.unflatten(flat)
    spec.check(back)
    assert all(np.array_equal(back[name], arrays[name]) for name in spec.names)
    assert np.array_equal(spec.flatten(back), flat)


def test_the_flat_vectors_layout_is_the_specs_order() -> None:
    flat = np.arange(SPEC.size, dtype=np.float32)
    arrays = SPEC.unflatten(flat)
    assert arrays["layer.lora_A.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["head.bias"].tolist() == [14, 15, 16]
    assert SPEC.names == ("layer.lora_A.weight", "layer.lora_B.weight", "head.bias")
    arrays["head.bias"][0] = -1.0  # a copy
    assert flat[14] == 14


def test_only_keeps_this_layouts_order() -> None:
    part = SPEC.only(["head.bias", "layer.lora_A.weight", "absent"])
    assert part.names == ("layer.lora_A.weight", "head.bias")
    assert part.size == 9


def test_sound_arrays_pass() -> None:
    SPEC.check(_arrays())
    largest = _arrays() | {"head.bias": f32([MAX_WEIGHT, -MAX_WEIGHT, 0.0])}
    SPEC.check(largest)
    SPEC.check(_arrays() | {"head.bias": f32([1e30, 0, 0])}, bound=None)


VIOLATIONS: dict[str, Any] = {
    "missing": lambda arrays: arrays.pop("head.bias"),
    "unknown": lambda arrays: arrays.update({"extra": np.zeros(1, np.float32)}),
    "renamed": lambda arrays: arrays.update({"head.Bias": arrays.pop("head.bias")}),
    "float64": lambda arrays: arrays.update({"head.bias": np.zeros(3)}),
    "float16": lambda arrays: arrays.update({"head.bias": np.zeros(3, np.float16)}),
    "int32": lambda arrays: arrays.update({"head.bias": np.zeros(3, np.int32)}),
    "object": lambda arrays: arrays.update({"head.bias": np.zeros(3, object)}),
    "broadcastable": lambda arrays: arrays.update({"head.bias": np.zeros(1, np.float32)}),
    "a scalar": lambda arrays: arrays.update({"head.bias": np.zeros((), np.float32)}),
    "one axis more": lambda arrays: arrays.update({"head.bias": np.zeros((1, 3), np.float32)}),
    "transposed": lambda arrays: arrays.update({"layer.lora_A.weight": np.zeros((3, 2), np.float32)}),
    "NaN": lambda arrays: arrays.update({"head.bias": f32([0, np.nan, 0])}),
    "infinite": lambda arrays: arrays.update({"head.bias": f32([0, np.inf, 0])}),
    "minus infinite": lambda arrays: arrays.update({"head.bias": f32([0, 0, -np.inf])}),
    "huge": lambda arrays: arrays.update({"head.bias": f32([0, 1e30, 0])}),
    "just too large": lambda arrays: arrays.update({"head.bias": f32([0, -1.0001e4, 0])}),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_unsound_arrays_are_refused_without_a_value_being_told(violation: str) -> None:
    arrays = _arrays()
    VIOLATIONS[violation](arrays)
    with pytest.raises(WireError) as caught:
        SPEC.check(arrays)
    assert "extra" not in str(caught.value)
    assert "1e+30" not in str(caught.value)


@pytest.mark.parametrize("violation", ["NaN", "infinite", "missing", "float64"])
def test_without_a_bound_everything_else_is_still_checked(violation: str) -> None:
    arrays = _arrays()
    VIOLATIONS[violation](arrays)
    with pytest.raises(WireError):
        SPEC.check(arrays, bound=None)


def test_the_digest_is_that_of_names_shapes_and_bytes() -> None:
    arrays = _arrays()
    assert digest(dict(reversed(arrays.items()))) == digest(arrays)
    assert digest({name: np.asfortranarray(array) for name, array in arrays.items()}) == digest(arrays)
    flipped = {name: array.copy() for name, array in arrays.items()}
    flipped["head.bias"].view(np.uint32)[2] ^= 1  # the last bit of the last value
    reshaped = arrays | {"layer.lora_A.weight": arrays["layer.lora_A.weight"].reshape(3, 2)}
    renamed = {name.replace("head", "tail"): array for name, array in arrays.items()}
    fewer = {name: array for name, array in arrays.items() if name != "head.bias"}
    assert len({digest(each) for each in (arrays, flipped, reshaped, renamed, fewer, {})}) == 6


def test_golden_digest() -> None:
    """Both sides compare it: it must not drift between versions."""
    arrays = {"head.bias": f32([0, 1, -2.5]), "a": f32([[0.1]])}
    assert digest(arrays) == "46677cd6e204cb741e90e912fd1190c6bee09d60573cf2ca34d2513fda95c5ff"


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["layer.lora_B.weight"] = np.asfortranarray(arrays["layer.lora_B.weight"])  # not in C's order
    path = tmp_path / "adapter.safetensors"
    save(arrays, path, {"plan": "x"})
    back = load(path)
    SPEC.check(back)
    assert digest(back) == digest(arrays)
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "truncated", "header", "pickle", "no file's text"])
def test_a_damaged_file_is_told_by_its_path(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "adapter.safetensors"
    save(_arrays(), path)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": whole[:-1],
                "header": b"\xff" * 8 + whole[8:],
                "pickle": b"\x80\x04K\x01.",
                "no file's text": b"once upon a time, there was a file",
            }[damage]
        )
    with pytest.raises(ModelError) as caught:
        load(path)
    assert caught.value.where == str(path)
    assert caught.value.mend
