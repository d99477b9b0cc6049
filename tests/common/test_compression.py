"""The codec of updates: near the true values, unbiased, exact in size, and trusting nothing that arrives."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from scipy import stats

from privet.common.compression import (
    BLOCK,
    MAX_VALUE,
    Coded,
    Compression,
    coded_bytes,
    coding_error,
    decode,
    encode,
    error_bound,
)
from privet.common.config import Plan
from privet.common.errors import Code, WireError
from privet.common.messages import Reply, ReplyBody, pack, parse_reply, to_record, unpack, update_reply
from privet.common.privacy.noise import SecureNoise, SeededNoise
from tests.server.report_runs import plan_of

KINDS: tuple[Any, ...] = ("fp16", "int8")
OK = ReplyBody(code=Code.OK, plan_digest="5e" * 32, round=3)
_VALUES = st.floats(-MAX_VALUE, MAX_VALUE, width=32)


@st.composite
def updates(draw: st.DrawFn) -> dict[str, Any]:
    """Arrays whose sizes cross blocks, of magnitudes from none to the bound."""
    found = {}
    for name in draw(st.sets(st.sampled_from("abc"), min_size=1)):
        size = draw(st.sampled_from([1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]))
        sparse = draw(arrays_of.arrays(np.float32, 4, elements=_VALUES))
        values = np.random.default_rng(draw(st.integers(0, 99))).normal(size=size) * draw(
            st.sampled_from([0, 1e-38, 1])
        )
        values[: min(4, size)] = sparse[: min(4, size)]
        found[name] = values.astype(np.float32).reshape(-1, 1) if size % 2 else values.astype(np.float32)
    return found


def _flat(found: Any) -> Any:
    return np.concatenate([np.asarray(found[name], np.float64).ravel() for name in sorted(found)])


@settings(deadline=None)
@given(updates(), st.sampled_from(KINDS), st.integers(0, 9))
def test_what_arrives_is_near_what_was_sent(update: Any, kind: Any, seed: int) -> None:
    coded = encode(kind, update, SeededNoise(seed))
    arrived = decode(coded)
    assert {name: array.shape for name, array in arrived.items()} == {n: a.shape for n, a in update.items()}
    assert all(array.dtype == np.float32 and array.flags.writeable for array in arrived.values())
    true, found = _flat(update), _flat(arrived)
    assert len(coded.data) == coded_bytes(kind, len(true)) < 4 * len(true) + 8
    for start in range(0, len(true), BLOCK):
        own, most = np.abs(true - found)[start : start + BLOCK], np.abs(true[start : start + BLOCK]).max()
        step = most / 127 * (1 + 1e-6) + 1e-44 if kind == "int8" else most * 2.0**-11 + 2.0**-140
        assert own.max() <= step
    assert math.isclose(
        coding_error(coded, true.astype(np.float32)), _relative(true, found), rel_tol=1e-3, abs_tol=1e-6
    )


def _relative(true: Any, found: Any) -> float:
    norm = np.linalg.norm(true)
    return float(np.linalg.norm(found - true) / norm) if norm else 0.0


@pytest.mark.parametrize("noise", [SeededNoise(5), SecureNoise()], ids=["seeded", "secure"])
def test_rounding_at_random_has_no_bias(noise: Any) -> None:
    """The mean of many codings is the value: a z-test for each of 600 values, which rounding to the nearest fails."""
    values = np.random.default_rng(0).normal(0, 1, 600).astype(np.float32)
    repeats = 400
    found = np.stack([decode(encode("int8", {"w": values}, noise))["w"] for _ in range(repeats)]).astype(np.float64)
    steps = np.repeat([np.abs(values[i : i + BLOCK]).max() / 127 for i in range(0, 600, BLOCK)], BLOCK)[:600]
    part = np.mod(values / steps, 1.0)
    deviation = steps * np.sqrt(np.maximum(part * (1 - part), 1e-3) / repeats)
    z = (found.mean(0) - values) / deviation
    assert abs(z.mean()) < 0.3
    assert np.abs(z).max() < 5.5
    assert stats.kstest(z[part * (1 - part) > 0.05], "norm").pvalue > 1e-5
    nearest = (np.rint(values / steps) * steps - values) / deviation
    assert np.abs(nearest).max() > 10  # the test would see it
    assert 0.2 < found.var(0).mean() / (steps**2 / 6).mean() < 5


def test_rounding_is_drawn_apart_for_every_value_and_every_time() -> None:
    values = np.full(4 * BLOCK, 0.5, np.float32)
    values[::BLOCK] = 127.0  # the scale is 1: each half goes up or down
    noise = SecureNoise()
    one, other = (decode(encode("int8", {"w": values}, noise))["w"] for _ in range(2))
    assert set(np.unique(one)) == {0.0, 1.0, 127.0}
    assert 0.4 < (one == other).mean() < 0.6
    assert 0.4 < (one[1:BLOCK] == one[BLOCK + 1 : 2 * BLOCK]).mean() < 0.6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1000, 300_000])
def test_the_bound_of_the_error_holds_and_is_near(kind: Any, size: int) -> None:
    """On what an update is: mostly Gaussian noise."""
    values = np.random.default_rng(1).normal(0, 1e-3, size).astype(np.float32)
    coded = encode(kind, {"w": values}, SeededNoise(1))
    measured, bound = coding_error(coded, values), error_bound(coded)
    assert measured <= bound * 1.01 < 4 * measured
    assert bound < (0.015 if kind == "int8" else 5e-4)
    assert error_bound(encode(kind, {"w": np.zeros(5, np.float32)}, SeededNoise(1))) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2e38, MAX_VALUE * 1.01])
def test_what_is_not_finite_is_coded_without_a_fault_and_refused_on_arrival(kind: Any, bad: float) -> None:
    """No code of a site may depend on what came out of its records."""
    coded = encode(kind, {"w": np.array([1.0, bad, 2.0], np.float32)}, SeededNoise(1))
    assert len(coded.data) == coded_bytes(kind, 3)
    with pytest.raises(WireError):
        decode(coded)
    assert unpack(pack(Reply(OK, coded=coded))).coded == coded  # it is stored, and sent again, all the same


def _hostile(kind: Any, *, scale: Any = None, code: Any = None, cut: int = 0) -> Coded:
    sound = encode(kind, {"w": np.linspace(-1, 1, 300, dtype=np.float32)}, SeededNoise(1))
    data = bytearray(sound.data)
    if scale is not None:
        data[4:8] = np.float32(scale).astype("<f4").tobytes()
    if code is not None:
        raw = np.array([code], "<f2" if kind == "fp16" else "i1").tobytes()
        data[-len(raw) :] = raw
    return Coded(kind, sound.shapes, bytes(data[: len(data) - cut] if cut >= 0 else data + bytes(-cut)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        *({"scale": value} for value in (math.nan, math.inf, -1.0, -1e-30, 1e30, 1e5)),
        *({"cut": cut} for cut in (1, 4, -1, -4)),
    ],
    ids=str,
)
def test_a_hostile_scale_or_length_is_refused(kind: Any, change: Any) -> None:
    decode(_hostile(kind))
    with pytest.raises(WireError):
        decode(_hostile(kind, **change))


@pytest.mark.parametrize(("kind", "code"), [("int8", -128), *(("fp16", c) for c in (math.nan, math.inf, 1.001, -2))])
def test_a_hostile_code_is_refused(kind: Any, code: Any) -> None:
    with pytest.raises(WireError):
        decode(_hostile(kind, code=code))


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 600), st.binary(max_size=1300))
def test_any_bytes_are_refused_or_within_the_bound(kind: Any, size: int, data: bytes) -> None:
    padded = (data * (coded_bytes(kind, size) // max(1, len(data)) + 1))[: coded_bytes(kind, size)]
    for given_ in (data, padded):
        try:
            found = decode(Coded(kind, (("w", (size,)),), given_))["w"]
        except WireError:
            continue
        assert found.shape == (size,)
        assert np.isfinite(found).all()
        assert (np.abs(found) <= MAX_VALUE).all()


# Messages


@settings(deadline=None)
@given(updates(), st.sampled_from(["none", *KINDS]))
def test_a_reply_arrives_stored_or_not_as_the_plan_has_it(update: Any, kind: Compression) -> None:
    reply = update_reply(OK, update, kind, SeededNoise(2))
    packed = pack(reply)
    stored = unpack(packed)
    assert pack(stored) == packed
    sent, again = to_record(reply), to_record(stored)
    assert sent["arrays"]["flat"].data == again["arrays"]["flat"].data  # byte for byte
    assert dict(sent["privet"]) == dict(again["privet"])
    values = sum(array.size for array in update.values())
    assert len(sent["arrays"]["flat"].data) == reply.num_bytes == coded_bytes(kind, values)
    arrived = parse_reply(sent, compression=kind, max_values=values)
    assert arrived.num_bytes == reply.num_bytes
    assert set(arrived.arrays) == set(update)
    for other in {"none", *KINDS} - {kind}:
        with pytest.raises(WireError):
            parse_reply(sent, compression=other)
    with pytest.raises(WireError):
        parse_reply(sent, compression=kind, max_values=values - 1)


def test_a_plan_of_plain_updates_keeps_its_digest() -> None:
    plan = plan_of()
    assert "compression" not in plan.canonical()
    raw = plan.model_dump(mode="json")
    changed = [Plan.model_validate(raw | {"training": raw["training"] | {"compression": k}}) for k in ("none", *KINDS)]
    assert changed[0].digest == plan.digest
    assert len({one.digest for one in changed}) == 3
