"""Hypothesis strategies: sound messages with faults, and records that are no messages at all."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import strategies as st

from privet.common.errors import Code
from tests.fuzz.oracle import LISTING, PLAN, ROUND, STYPE, Side
from tests.server.statements import stated

Draw = Callable[[Any], Any]

STATEMENT = stated().to_json()
HUGE = [2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 2**70, 10**30, -1, -(2**63)]
WORDS = st.text(st.characters(), max_size=12) | st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "../../etc",
        "\x1b[2J",
        "head.bias",
        "q.lora_A.weight",
        "x" * 301,
        "é",
        "flat",
        "privet",
        "loss",
    ]
)
numbers = st.integers() | st.sampled_from(HUGE) | st.floats() | st.booleans()
scalars = st.none() | numbers | WORDS | st.sampled_from([PLAN, "train", "ok"])
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
deep = st.sampled_from(["[" * 5000, '{"a":' * 3000, "[" * 900 + "]" * 900, '{"body":' * 100 + "1" + "}" * 100])
lengths = st.integers(-3, 9) | st.sampled_from([*HUGE, 50 << 20, 1 << 26, (1 << 26) + 1])


_TEXTS = json_values.map(json.dumps) | st.text(max_size=40)
_NO_TEXTS = st.binary(max_size=20) | st.integers(-(2**60), 2**60) | st.floats() | st.just([LISTING])
_LIES = st.sampled_from(  # another plan's, another round's, another code with arrays, statements that lie
    [
        {"plan_digest": "ab" * 32},
        {"round": ROUND + 1, "plan_digest": "0" * 64},
        {"round": 0},
        {"code": "pending"},
        {"code": "round_lost"},
        {"kind": "finish"},
        {"kind": "evaluate", "after": 3},
        {"statement": STATEMENT | {"epsilon": -1.0}},
        {"statement": STATEMENT | {"reason": "<script>"}},
        {"head": "A" * 39},
        {"head": "\0" * 80},
    ]
)
_OTHERS = st.sampled_from([Code.PENDING.value, "f" * 64, PLAN.upper(), PLAN + "\n"])
_DTYPES = st.sampled_from(["float64", "object", "<f4", ">f4", "int32", "str", "O"]) | WORDS
_STYPES = st.sampled_from(["numpy.ndarray", "pickle", "torch", STYPE + " "]) | WORDS
_COUNTS = st.sampled_from([50 << 20, 1 << 26, 2**31, 2**40])
_WORST = st.sampled_from([np.nan, np.inf, -np.inf, 3e4, -1e30, 3.4e38])
_SHAPES = st.lists(lengths, max_size=10)
_RECORD_NAMES = st.sampled_from(["privet", "arrays", "metrics"]) | WORDS
_PARTS = st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True)


@cache
def _keys(known: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from([*known, "loss", "num_examples", "__class__"])


def _changed_json(draw: Draw, text: str) -> str:
    """A body of the schema, with some of its values or keys replaced."""
    body = json.loads(text)
    for _ in range(draw(st.integers(1, 2))):
        where = body
        if isinstance(body.get("statement"), dict) and draw(st.booleans()):
            where = body["statement"]
        key = draw(_keys(tuple(sorted(where))))
        how = draw(st.integers(0, 6))
        if how == 0:
            where.pop(key, None)
        elif how == 1:
            where[key] = draw(_OTHERS)
        elif how == 2:
            where[key] = draw(numbers)
        else:
            where[key] = draw(json_values)
    return json.dumps(body)


def _body(draw: Draw, text: str) -> Any:
    how = draw(st.integers(0, 7))
    if how == 0:
        return draw(deep)
    if how == 1:
        return text[: draw(st.integers(0, len(text) - 1))]
    if how == 2:
        return draw(_TEXTS)
    if how == 3:
        body = json.loads(text)
        body |= draw(_LIES)
        return json.dumps(body)
    if how == 4:
        return draw(_NO_TEXTS)
    if how == 5:
        return text.replace('"round":', f'"round":{draw(st.sampled_from(HUGE))},"round_":')
    return _changed_json(draw, text)


def _listing(draw: Draw) -> Any:
    rows: list[Any] = json.loads(LISTING)
    how = draw(st.integers(0, 8))
    if how == 0:
        return draw(deep)
    if how == 1:
        return draw(_TEXTS | _NO_TEXTS)
    row = draw(st.integers(0, len(rows) - 1))
    if how == 2:
        rows[row][0] = draw(WORDS)
    elif how == 3:
        rows[row][1] = draw(_SHAPES)
    elif how == 4:
        rows.append(rows[row])
    elif how == 5:
        rows.reverse()
    elif how == 6:
        rows[row] = draw(json_values)
    elif how == 7:
        del rows[row]
    else:
        return json.dumps(rows)  # with blanks
    return json.dumps(rows, separators=(",", ":"))


def _flat(draw: Draw, array: Any) -> Any:
    fields = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")}
    how = draw(st.integers(0, 7))
    if how == 0:
        fields["shape"] = tuple(draw(_SHAPES))
    elif how == 1:
        fields["dtype"] = draw(_DTYPES)
    elif how == 2:
        fields["stype"] = draw(_STYPES)
    elif how == 3:
        fields["data"] = fields["data"][: draw(st.integers(0, len(fields["data"]) - 1))]
    elif how == 4:
        fields["data"] += bytes(draw(st.integers(1, 64)))
    elif how == 5:
        count = draw(_COUNTS)
        fields["shape"] = (count,)  # 200 MB and more, with a few bytes
    else:
        values = np.frombuffer(fields["data"], "<f4").copy()
        values[draw(st.integers(0, len(values) - 1))] = draw(_WORST)
        fields["data"] = values.tobytes()
    made = Array(dtype="float32", shape=(1,), stype=STYPE, data=b"")
    for name, value in fields.items():
        setattr(made, name, value)  # past Flower's constructor, as what is inflated
    return made


def _put(record: RecordDict, name: str, value: Any) -> None:
    record.__dict__["_data"][name] = value  # past Flower's checks


def with_faults(side: Side) -> st.SearchStrategy[RecordDict]:
    """Messages that were sound before something happened to one or two of their parts."""

    @st.composite
    def build(draw: Draw) -> RecordDict:
        record = side.sound()
        config: Any = record["privet"]
        flat: Any = record["arrays"]
        text, array = str(config["body"]), flat["flat"]
        for part in draw(_PARTS):
            if part == 0:
                _put(config, "body", _body(draw, text))
            elif part == 1:
                _put(config, "arrays", _listing(draw))
            elif part == 2:
                _put(flat, "flat", _flat(draw, array))
            elif part == 3:
                _put(draw(st.sampled_from([config, flat])), draw(WORDS), draw(scalars))
            else:
                name = draw(_RECORD_NAMES)
                _put(record, name, draw(loose_records))
        return record

    return build()


loose_arrays = st.builds(
    lambda dtype, shape, stype, data: Array(dtype=dtype, shape=shape, stype=stype, data=data),
    st.sampled_from(["float32", "float64", "object", ""]) | st.text(max_size=5),
    st.lists(st.integers(-4, 2**70) | st.integers(0, 4), max_size=10).map(tuple),
    st.sampled_from([STYPE, "numpy.ndarray", "pickle"]),
    st.binary(max_size=64),
)
loose_records = st.one_of(
    st.dictionaries(
        st.sampled_from(["body", "arrays"]) | st.text(max_size=5),
        st.text(max_size=60)
        | st.integers(-(2**60), 2**60)
        | st.floats()
        | st.booleans()
        | st.binary(max_size=20)
        | st.lists(st.floats(), min_size=1, max_size=3),
        max_size=3,
    ).map(ConfigRecord),
    st.dictionaries(st.just("flat") | st.text(max_size=5), loose_arrays, max_size=3).map(ArrayRecord),
    st.dictionaries(st.text(max_size=5), st.floats() | st.integers(-(2**60), 2**60), max_size=3).map(MetricRecord),
)
no_messages = st.dictionaries(
    st.sampled_from(["privet", "arrays"]) | st.text(max_size=5), loose_records, max_size=3
).map(RecordDict)


def malformed(side: Side) -> st.SearchStrategy[RecordDict]:
    """Anything but a sound message, mostly close to one."""
    return with_faults(side) | with_faults(side) | with_faults(side) | no_messages
