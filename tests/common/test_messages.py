"""Requests and replies through Flower's records: what was sent arrives, and nothing else gets through."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from privet.common.errors import Code, WireError
from privet.common.messages import (
    EvaluateBody,
    FinishBody,
    OfferBody,
    Reply,
    ReplyBody,
    Request,
    TrainBody,
    pack,
    parse_reply,
    parse_request,
    to_record,
    unpack,
)
from privet.common.privacy.statement import Statement


def f32(values: object) -> NDArray[np.float32]:
    return np.array(values, np.float32)


STYPE = "privet.float32.le"
DIGEST = "5e" * 32
STATEMENT = Statement(
    guarantee=True,
    unit="unit",
    delta=1e-5,
    epsilon=2.971,
    epsilon_replace=5.6012,
    advantage=0.41,
    true_positive_bound=0.2004,
    accountant="dp-accounting 0.6.0, privacy loss distributions",
    noise_multiplier=1.234,
    max_grad_norm=1.0,
    sample_rate=0.064,
    expected_batch=64,
    local_steps=5,
    rounds=40,
    max_records=4,
    released=("update",),
)
# Everything that may ever leave a site. A new entry here is a decision about privacy, not a refactoring.
MAY_LEAVE = {"kind", "code", "plan_digest", "round", "statement", "head"}
MAY_LEAVE_IN_A_STATEMENT = {
    *("format", "guarantee", "reason", "unit", "delta", "epsilon", "epsilon_replace", "advantage"),
    *("true_positive_bound", "mechanism", "sampling", "accountant", "noise_multiplier", "max_grad_norm"),
    *("sample_rate", "expected_batch", "local_steps", "rounds", "max_records", "released", "declared_weight"),
    *("train_fraction", "evaluation", "mu", "mu_meaning", "trade_off", "max_per_person", "epsilon_person"),
}

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
rounds = st.integers(1, 1_000_000)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
floats = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=st.floats(width=32, allow_nan=False)
)
arrays = st.dictionaries(names, floats, max_size=4)
heads = st.none() | st.from_regex(r"[A-Za-z0-9+/]{40,200}={0,2}", fullmatch=True)
requests = st.one_of(
    st.builds(Request, st.builds(OfferBody, plan=names, plan_digest=digests, adapter_digest=digests, head=heads)),
    st.builds(Request, st.builds(TrainBody, plan_digest=digests, round=rounds), arrays),
    st.builds(Request, st.builds(EvaluateBody, plan_digest=digests, round=rounds, after=rounds), arrays),
    st.builds(Request, st.builds(FinishBody, plan_digest=digests)),
)
replies = st.one_of(
    st.builds(
        Reply,
        st.builds(
            ReplyBody,
            code=st.sampled_from(Code),
            plan_digest=digests,
            round=st.just(0) | rounds,
            statement=st.none() | st.just(STATEMENT),
            head=heads,
        ),
    ),
    st.builds(Reply, st.builds(ReplyBody, code=st.just(Code.OK), plan_digest=digests, round=rounds), arrays),
)


def _same(one: Request | Reply, other: Request | Reply) -> bool:
    return (
        one.body == other.body
        and set(one.arrays) == set(other.arrays)
        and all(
            other.arrays[name].dtype == np.float32
            and other.arrays[name].shape == array.shape
            and other.arrays[name].tobytes() == array.tobytes()
            for name, array in one.arrays.items()
        )
    )


# Round trips


@given(requests)
def test_a_request_arrives_as_it_was_sent(request: Request) -> None:
    arrived = parse_request(to_record(request))
    assert _same(request, arrived)
    assert arrived.sha256 == request.sha256


@given(replies)
def test_a_reply_arrives_as_it_was_sent(reply: Reply) -> None:
    assert _same(reply, parse_reply(to_record(reply)))


@given(replies)
def test_a_stored_reply_is_read_back_and_packs_to_the_same_bytes(reply: Reply) -> None:
    stored = pack(reply)
    assert _same(reply, unpack(stored))
    assert pack(unpack(stored)) == stored


def test_records_survive_flowers_own_passage() -> None:
    """Deflated and inflated, as between server and site."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    reply = Reply(
        ReplyBody(code=Code.OK, plan_digest=DIGEST, round=3, statement=STATEMENT),
        {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.float32)},
    )
    assert _same(reply, parse_reply(recorddict_from_proto(recorddict_to_proto(to_record(reply)))))


def test_what_arrives_can_be_written_to() -> None:
    """`np.frombuffer` alone would give read-only arrays, which torch warns about."""
    arrived = parse_request(to_record(_train()))
    assert all(array.flags.writeable for array in arrived.arrays.values())


# The allowed list


def test_the_allowed_list_of_what_leaves_a_site() -> None:
    assert set(ReplyBody.model_fields) == MAY_LEAVE
    assert set(Statement.model_fields) == MAY_LEAVE_IN_A_STATEMENT
    record = to_record(
        Reply(ReplyBody(code=Code.OK, plan_digest=DIGEST, round=1, statement=STATEMENT), {"w": np.ones(2, np.float32)})
    )
    assert set(record) == {"privet", "arrays"}
    config, carried = record["privet"], record["arrays"]
    assert isinstance(config, ConfigRecord)
    assert isinstance(carried, ArrayRecord)
    assert set(config) == {"body", "arrays"}
    assert config["arrays"] == '[["w",[2]]]'
    body = json.loads(str(config["body"]))
    assert set(body) == MAY_LEAVE
    assert set(body["statement"]) == MAY_LEAVE_IN_A_STATEMENT
    assert set(carried) == {"flat"}
    assert carried["flat"].data == np.ones(2, "<f4").tobytes()


def test_the_codes_that_may_leave() -> None:
    assert {str(code) for code in Code} == {
        *("ok", "pending", "refused_policy", "refused_budget", "unknown_plan", "outside_horizon"),
        *(
            "altered_request",
            "round_lost",
            "ledger_behind",
            "bad_request",
            "base_mismatch",
            "adapter_mismatch",
            "unavailable",
        ),
    }


# The digest of a request


def _train(**changes: Any) -> Request:
    values: dict[str, Any] = {"plan_digest": DIGEST, "round": 3}
    return Request(
        TrainBody(**(values | changes)),
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": f32([0.0, 1.0])},
    )


def test_the_digest_changes_with_any_part_of_a_request() -> None:
    base = _train()
    others = [
        _train(round=4),
        _train(plan_digest="5f" + DIGEST[2:]),
        Request(FinishBody(plan_digest=DIGEST), base.arrays),
        Request(base.body, {}),
        Request(base.body, {"a": base.arrays["a"]}),
        Request(base.body, {"a": base.arrays["a"], "c": base.arrays["b"]}),
        Request(base.body, {"a": base.arrays["a"].reshape(3, 2), "b": base.arrays["b"]}),
        Request(base.body, {"a": base.arrays["a"].reshape(6), "b": base.arrays["b"]}),
        Request(base.body, {"a": np.zeros(1, np.float32)}),
        Request(base.body, {"a": np.zeros((), np.float32)}),
        Request(base.body, {"a": base.arrays["b"], "b": base.arrays["a"]}),
        Request(base.body, {"a": base.arrays["a"], "b": f32([-0.0, 1.0])}),  # equal, but other bytes
        Request(base.body, dict(base.arrays) | {"c": np.zeros(0, np.float32)}),
    ]
    assert len({request.sha256 for request in (base, *others)}) == 1 + len(others)


@given(st.integers(0, 31), st.integers(0, 7), st.sampled_from(["a", "b"]))
def test_the_digest_changes_with_any_bit_of_an_array(position: int, bit: int, name: str) -> None:
    base = _train()
    data = bytearray(base.arrays[name].tobytes())
    data[position % len(data)] ^= 1 << bit
    changed = np.frombuffer(bytes(data), np.float32).reshape(base.arrays[name].shape)
    assert Request(base.body, dict(base.arrays) | {name: changed}).sha256 != base.sha256


@given(requests, st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_arrays(request: Request, random: Any) -> None:
    shuffled = list(request.arrays.items())
    random.shuffle(shuffled)
    assert Request(request.body, dict(shuffled)).sha256 == request.sha256


def test_golden_digest_of_a_request() -> None:
    """A site knows a request again by this after an upgrade: a round must not be trained twice."""
    assert _train().sha256 == "35b3485c853519ba02c54ddfdd792b06f231513a9057080ed2585e8d4f44beec"


# What is refused


def _body(**changes: Any) -> str:
    return json.dumps({"kind": "train", "plan_digest": DIGEST, "round": 3} | changes)


def _answer(**changes: Any) -> str:
    body = {"kind": "reply", "code": "ok", "plan_digest": DIGEST, "round": 3, "statement": None}
    return json.dumps(body | changes)


def _record(text: object, **further: Any) -> RecordDict:
    record = RecordDict({"privet": ConfigRecord({"body": text})})
    for name, value in further.items():
        record[name] = value
    return record


BAD_BODIES = [
    "",
    "{",
    "null",
    "[]",
    "3",
    '"train"',
    "{}",
    "[" * 5000,
    '{"kind":' * 3000,
    '"\\ud800"',
    "\ud800",
    "\0",
    '{"kind": ["train"]}',
    '{"kind": {"train": 1}}',
]
BAD_REQUESTS = [
    _body(kind="evaluate"),
    _body(kind="reply"),
    _body(kind="Train"),
    _body(kind=None),
    _body(noise_multiplier=0.0),
    _body(round=0),
    _body(round=-1),
    _body(round=1_000_001),
    _body(round=3.0),
    _body(round=True),
    _body(round="3"),
    _body(round=None),
    _body(round=float("nan")),
    _body(round=float("inf")),
    _body(plan_digest="5E" * 32),
    _body(plan_digest=DIGEST + "\n"),
    _body(plan_digest="5e"),
    _body(plan_digest=3),
    json.dumps({"kind": "train", "round": 3}),
    json.dumps({"kind": "train", "plan_digest": DIGEST}),
    json.dumps({"kind": "offer", "plan": {}, "plan_digest": DIGEST, "adapter_digest": DIGEST}),
    json.dumps({"kind": "offer", "plan": "x", "plan_digest": DIGEST}),
    json.dumps({"kind": "finish", "plan_digest": DIGEST, "round": 3}),
]
BAD_REPLIES = [
    _answer(kind="train"),
    _answer(code="OK"),
    _answer(code="trust me"),
    _answer(code=0),
    _answer(code=None),
    _answer(loss=0.5),
    _answer(num_examples=100),
    _answer(round=-1),
    _answer(round=1.0),
    _answer(round=float("nan")),
    _answer(plan_digest=DIGEST.upper()),
    _answer(statement={}),
    _answer(statement=STATEMENT.to_json() | {"epsilon": float("nan")}),
    _answer(statement=STATEMENT.to_json() | {"epsilon": float("inf")}),
    _answer(statement=STATEMENT.to_json() | {"noise_multiplier": float("inf")}),
    _answer(statement=STATEMENT.to_json() | {"noise_multiplier": -1.0}),
    _answer(statement=STATEMENT.to_json() | {"loss": 0.5}),
    _answer(statement=STATEMENT.to_json() | {"declared_weight": 0}),
    _answer(statement=STATEMENT.to_json() | {"reason": "<script>"}),
    _answer(statement=STATEMENT.to_json() | {"released": ["up\ndate"]}),
]


@pytest.mark.parametrize("text", BAD_BODIES + BAD_REQUESTS, ids=lambda text: text[:40])
def test_a_malformed_request_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_request(_record(text))


@pytest.mark.parametrize("text", BAD_BODIES + BAD_REPLIES, ids=lambda text: text[:40])
def test_a_malformed_reply_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_reply(_record(text))


@pytest.mark.parametrize(
    "body",
    [
        OfferBody(plan="{}", plan_digest=DIGEST, adapter_digest=DIGEST),
        FinishBody(plan_digest=DIGEST),
    ],
)
def test_arrays_come_with_a_request_for_work_only(body: OfferBody | FinishBody) -> None:
    with pytest.raises(WireError, match="to train or to evaluate only"):
        parse_request(to_record(Request(body, {"w": np.ones(2, np.float32)})))


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_arrays_come_with_the_code_ok_only(code: Code) -> None:
    reply = Reply(ReplyBody(code=code, plan_digest=DIGEST, round=1), {"w": np.ones(2, np.float32)})
    with pytest.raises(WireError, match="code ok only"):
        parse_reply(to_record(reply))


def test_an_errors_text_holds_nothing_of_what_arrived() -> None:
    for parse, text in ((parse_request, _body(secret="Jane Doe")), (parse_reply, _answer(secret="Jane Doe"))):
        with pytest.raises(WireError) as caught:
            parse(_record(text))
        assert "Jane" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


# What is stored


def _header(metadata: object, *, dtype: str = "F32", data: bytes = bytes(8)) -> bytes:
    header = json.dumps(
        {"__metadata__": metadata, "w": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + data


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b"")
@example(bytes(8))
@example(b"\xff" * 16)
@example((2).to_bytes(8, "little") + b"{}")
@example((5000).to_bytes(8, "little") + b"[" * 5000)
@example(_header([]))
@example(_header({}))
@example(_header({"body": "{}"}))
@example(_header({"body": 3}))
@example(_header({"body": _answer()})[:-1])
@example(_header({"body": _answer(), "more": "x"}, dtype="BF16", data=bytes(4)))
@example(_header({"body": _answer()}, dtype="F64", data=bytes(16)))
@example(_header({"body": _answer()}, dtype="NONE"))
def test_stored_bytes_that_pack_did_not_write_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack(data)


@given(replies, st.data())
def test_a_damaged_stored_reply_is_refused_or_read(reply: Reply, data: Any) -> None:
    stored = bytearray(pack(reply))
    position = data.draw(st.integers(0, len(stored) - 1))
    stored[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(stored), bytes(stored[:position])):
        with suppress(WireError):
            unpack(damaged)
