"""What arrives in Flower's records: sound of form and size in every part, or refused before anything is copied."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privet.common.errors import WireError
from privet.common.messages import max_reply_bytes, max_request_bytes, parse_reply, parse_request
from privet.common.record import carry, read, unpack_arrays

STYPE = "privet.float32.le"
DIGEST = "5e" * 32
TRAIN = json.dumps({"kind": "train", "plan_digest": DIGEST, "round": 3})
OK = json.dumps({"kind": "reply", "code": "ok", "plan_digest": DIGEST, "round": 3})
LISTING = '[["a",[2]],["b",[1,2]]]'  # four values
PARSERS: list[tuple[Callable[[Any], Any], str]] = [(parse_request, TRAIN), (parse_reply, OK)]


def array_of(**changes: Any) -> Array:
    """The sound flat array of LISTING but for `changes`, made past Flower's constructor, as what is inflated."""
    array = Array(dtype="float32", shape=(4,), stype=STYPE, data=bytes(16))
    for name, value in changes.items():
        setattr(array, name, value)
    return array


def arrays_of(**arrays: Any) -> ArrayRecord:
    record = ArrayRecord()
    record.__dict__["_data"].update(arrays)  # past Flower's constructor, which makes plain Arrays of them
    return record


def record_of(text: object, listing: object = LISTING, array: object = None) -> RecordDict:
    """A message whose parts are sound but for those given."""
    flat = arrays_of(flat=array_of() if array is None else array)
    return RecordDict({"privet": ConfigRecord({"body": text, "arrays": listing}), "arrays": flat})


def with_record(text: str, **records: Any) -> RecordDict:
    record = record_of(text)
    for name, value in records.items():
        record.__dict__["_data"][name] = value
    return record


def without(text: str, name: str) -> RecordDict:
    record = record_of(text)
    del record[name]
    return record


class _Records(ArrayRecord):  # type: ignore[misc]
    """A subclass could bring methods of its own."""


class _Array(Array):  # type: ignore[misc]
    pass


class _Config(ConfigRecord):  # type: ignore[misc]
    pass


class _Dict(RecordDict):  # type: ignore[misc]
    pass


class _Text(str):
    pass


def _config(**changes: Any) -> ConfigRecord:
    return ConfigRecord({"body": TRAIN, "arrays": LISTING} | changes)


def _sub_text() -> ConfigRecord:
    config = _config()
    config.__dict__["_data"]["arrays"] = _Text(LISTING)
    return config


BAD_RECORDS: dict[str, Callable[[str], Any]] = {
    "no record": lambda text: RecordDict(),
    "not a record": lambda text: {"privet": ConfigRecord({"body": text})},
    "none": lambda text: None,
    "a subclass": lambda text: _Dict({"privet": ConfigRecord({"body": text})}),
    "an unknown record": lambda text: with_record(text, more=ConfigRecord({"x": 1})),
    "metrics": lambda text: with_record(text, metrics=MetricRecord({"loss": 0.5})),
    "the body elsewhere": lambda text: RecordDict({"config": ConfigRecord({"body": text})}),
    "metrics as the body": lambda text: RecordDict({"privet": MetricRecord({"body": 1.0})}),
    "arrays as the body": lambda text: RecordDict({"privet": arrays_of(body=array_of())}),
    "a subclass as the body": lambda text: with_record(text, privet=_Config({"body": text, "arrays": LISTING})),
    "a third key": lambda text: with_record(text, privet=ConfigRecord({"body": text, "arrays": LISTING, "loss": 0.5})),
    "no key": lambda text: RecordDict({"privet": ConfigRecord({})}),
    "a body of bytes": lambda text: record_of(text.encode()),
    "a body that is a number": lambda text: record_of(3),
    "a body that is a list": lambda text: record_of([text]),
    "a body too long": lambda text: record_of(text + " " * (4 << 20)),
    "no body": lambda text: with_record(text, privet=ConfigRecord({"arrays": LISTING})),
    "a listing without arrays": lambda text: without(text, "arrays"),
    "arrays without a listing": lambda text: with_record(text, privet=ConfigRecord({"body": text})),
    "arrays without a body": lambda text: without(text, "privet"),
    "a listing of bytes": lambda text: record_of(text, LISTING.encode()),
    "a listing that is a list": lambda text: record_of(text, [LISTING]),
    "a subclass as the listing": lambda text: with_record(text, privet=_sub_text()),
    "config as the arrays": lambda text: with_record(text, arrays=ConfigRecord({"flat": b"1234"})),
    "metrics as the arrays": lambda text: with_record(text, arrays=MetricRecord({"flat": [1.0, 2.0, 3.0, 4.0]})),
    "a subclass as the arrays": lambda text: with_record(text, arrays=_Records({"flat": array_of()})),
    "no array": lambda text: with_record(text, arrays=ArrayRecord({})),
    "two arrays": lambda text: with_record(text, arrays=arrays_of(flat=array_of(), more=array_of())),
    "an array of another name": lambda text: with_record(text, arrays=arrays_of(a=array_of())),
    "an array that is none": lambda text: with_record(text, arrays=arrays_of(flat=bytes(16))),
}


@pytest.mark.parametrize("fault", BAD_RECORDS)
def test_a_malformed_record_is_refused(fault: str) -> None:
    for parse, text in PARSERS:
        with pytest.raises(WireError):
            parse(BAD_RECORDS[fault](text))


BAD_ARRAYS: dict[str, Any] = {
    "numpy's own form": Array(np.zeros(4, np.float32)),
    "a pickle": array_of(stype="pickle"),
    "numpy's stype": array_of(stype="numpy.ndarray"),
    "float64": array_of(dtype="float64", data=bytes(32)),
    "object": array_of(dtype="object"),
    "int32": array_of(dtype="int32"),
    "big endian": array_of(dtype=">f4"),
    "numpy's name": array_of(dtype="<f4"),
    "too few bytes": array_of(data=bytes(15)),
    "too many bytes": array_of(data=bytes(20)),
    "no bytes": array_of(data=b""),
    "a bytearray": array_of(data=bytearray(16)),
    "a memoryview": array_of(data=memoryview(bytes(16))),
    "a value less than listed": array_of(shape=(3,), data=bytes(12)),
    "a value more than listed": array_of(shape=(5,), data=bytes(20)),
    "two axes": array_of(shape=(2, 2)),
    "no axis": array_of(shape=()),
    "a huge shape": array_of(shape=(1 << 40,)),
    "a negative length": array_of(shape=(-4,)),
    "numpy's wildcard": array_of(shape=(-1,)),
    "a length that is a float": array_of(shape=(4.0,)),
    "a length that is text": array_of(shape=("4",)),
    "a shape that is a list": array_of(shape=[4]),
    "a subclass": _Array(dtype="float32", shape=(4,), stype=STYPE, data=bytes(16)),
}


@pytest.mark.parametrize("fault", BAD_ARRAYS)
def test_a_malformed_array_is_refused(fault: str) -> None:
    for parse, text in PARSERS:
        with pytest.raises(WireError):
            parse(record_of(text, array=BAD_ARRAYS[fault]))


def test_a_length_that_is_a_bool_is_refused() -> None:
    for parse, text in PARSERS:
        with pytest.raises(WireError):
            parse(record_of(text, '[["a",[1]]]', array_of(shape=(True,), data=bytes(4))))
        with pytest.raises(WireError):
            parse(record_of(text, '[["a",[true]]]', array_of(shape=(1,), data=bytes(4))))


BAD_LISTINGS: dict[str, str] = {
    "nothing": "",
    "no JSON": "[[",
    "null": "null",
    "a number": "3",
    "an object": '{"a":[4]}',
    "no array": "[]",
    "no shape": '[["a"]]',
    "a third part": '[["a",[4],0]]',
    "a name that is a number": "[[4,[4]]]",
    "a name that is none": "[[null,[4]]]",
    "an endless name": json.dumps([["n" * 301, [4]]], separators=(",", ":")),
    "half a surrogate pair": '[["\\ud800",[4]]]',
    "a shape that is a number": '[["a",4]]',
    "a shape that is text": '[["a","4"]]',
    "a length of zero": '[["a",[0]],["b",[4]]]',
    "a negative length": '[["a",[-4]]]',
    "two negative lengths": '[["a",[-2,-2]]]',
    "a length that is a float": '[["a",[4.0]]]',
    "a length that is NaN": '[["a",[NaN]]]',
    "a length that is infinite": '[["a",[Infinity]]]',
    "a length that is null": '[["a",[null]]]',
    "a huge length": f'[["a",[{1 << 40}]]]',
    "a length of 5,000 digits": f'[["a",[{"9" * 5000}]]]',
    "lengths whose product wraps round": f'[["a",[4,{1 << 32},{1 << 32}]]]',
    "a huge product": f'[["a",[{1 << 26},{1 << 26}]]]',
    "many axes": '[["a",[1,1,1,1,1,1,1,1,4]]]',
    "unsorted": '[["b",[1,2]],["a",[2]]]',
    "a name twice": '[["a",[2]],["a",[2]]]',
    "blanks": '[["a", [2]],["b",[1,2]]]',
    "a blank at the end": LISTING + " ",
    "a name written otherwise": '[["\\u0061",[4]]]',
    "a letter that was not escaped": '[["é",[4]]]',
    "nested": "[" * 5000,
    "nested and closed": "[" * 4000 + "]" * 4000,
    "nested objects": '{"a":' * 4000,
    "too many arrays": json.dumps([[f"{n:05}", [1]] for n in range(4097)], separators=(",", ":")),
    "too long": '[["' + "a" * (1 << 20) + '",[4]]]',
}


@pytest.mark.parametrize("fault", BAD_LISTINGS)
def test_a_malformed_listing_is_refused(fault: str) -> None:
    for parse, text in PARSERS:
        with pytest.raises(WireError) as caught:
            parse(record_of(text, BAD_LISTINGS[fault]))
        assert "many" in fault or BAD_LISTINGS[fault] not in str(caught.value) or not BAD_LISTINGS[fault]
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_well_formed_twin_of_those_passes() -> None:
    arrays = {"n" * 300: np.ones((2, 1, 1, 1, 1, 1, 1, 1), np.float32), "é": np.full((), 3.0, np.float32)}
    for parse, text in PARSERS:
        parsed = parse(carry(text, arrays))
        assert {name: array.tolist() for name, array in parsed.arrays.items()} == {
            name: array.tolist() for name, array in arrays.items()
        }
        twin = parse(record_of(text))
        assert {name: array.shape for name, array in twin.arrays.items()} == {"a": (2,), "b": (1, 2)}


def test_as_many_arrays_as_allowed_pass() -> None:
    arrays = {f"{number:05}": np.full(1, number, np.float32) for number in range(4096)}
    arrived = unpack_arrays(read(carry("x", arrays), max_text=1, max_values=4096))
    assert [float(array[0]) for array in arrived.values()] == list(range(4096))


def test_a_reply_has_a_shorter_body_than_a_request() -> None:
    """It holds no plan: what a site can make the server keep is small."""
    long = " " * (64 << 10)
    parse_request(record_of(TRAIN + long))
    with pytest.raises(WireError, match="too long"):
        parse_reply(record_of(OK + long))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of what was copied."""
    made: list[int] = []
    genuine = np.frombuffer

    def watched(data: bytes, **settings: Any) -> Any:
        made.append(len(data))
        return genuine(data, **settings)

    monkeypatch.setattr("privet.common.record.np.frombuffer", watched)
    return made


@pytest.mark.parametrize(("limit", "sound"), [(None, True), (4, True), (3, False), (2, False), (0, False)])
def test_all_arrays_together_are_bounded_before_any_is_copied(
    copies: list[int], limit: int | None, sound: bool
) -> None:
    if sound:
        assert len(parse_request(record_of(TRAIN), max_values=limit).arrays) == 2
        assert copies == [16]
    else:
        with pytest.raises(WireError, match=f"more than {limit} values"):
            parse_request(record_of(TRAIN), max_values=limit)
        assert copies == []


def test_the_bound_of_a_message_is_that_of_its_arrays_together(
    copies: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.common.messages.MAX_VALUES", 3)
    for parse, text in PARSERS:
        with pytest.raises(WireError, match="more than 3 values"):
            parse(record_of(text))
    with pytest.raises(WireError, match="more than 3 values"):
        parse_request(record_of(TRAIN), max_values=1000)  # a bound of the caller's raises none
    assert copies == []


def test_a_lie_about_the_size_is_not_copied(copies: list[int]) -> None:
    for parse, text in PARSERS:
        with pytest.raises(WireError):  # 200 MB, says the listing, and the array agrees
            parse(record_of(text, f'[["a",[{50 << 20}]]]', array_of(shape=(50 << 20,))))
    assert copies == []


def test_arrays_that_are_out_of_place_are_not_copied(copies: list[int]) -> None:
    finish = json.dumps({"kind": "finish", "plan_digest": DIGEST})
    pending = json.dumps({"kind": "reply", "code": "pending", "plan_digest": DIGEST})
    cases: list[tuple[Callable[[Any], Any], str]] = [(parse_request, finish), (parse_request, "{}")]
    for parse, text in [*cases, (parse_reply, pending)]:
        with pytest.raises(WireError):
            parse(record_of(text))
    assert copies == []


def test_nothing_of_what_arrived_is_shared_with_what_is_parsed() -> None:
    record = record_of(TRAIN)
    request = parse_request(record)
    request.arrays["a"][:] = 7.0
    assert record["arrays"]["flat"].data == bytes(16)
    assert request.arrays["b"].tolist() == [[0.0, 0.0]]


def test_the_bounds_of_a_message_hold_for_the_largest_sound_one() -> None:
    from privet.common.inflation import inflated_bytes
    from privet.server.fleet.flower import get_all_nested_objects

    size = 2_000_000
    for text, limit in ((OK, max_reply_bytes(size)), (TRAIN + " " * (4 << 20 >> 1), max_request_bytes(size))):
        record = carry(text, {"n" * 300: np.arange(size, dtype=np.float32)})
        contents = {name: part.deflate() for name, part in get_all_nested_objects(record).items()}
        assert 8 * size < inflated_bytes(contents) < limit
    assert max_reply_bytes(size) < 8 * size + (3 << 20)
