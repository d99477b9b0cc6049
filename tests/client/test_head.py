"""The sealed head: of one length, opaque, and unforgeable without the data set's id."""

import base64
import math
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.client.ledger.head import NUM_MARKS, Head, seal, unseal
from privet.common.errors import WireError
from privet.common.messages import Head as Wire
from tests.client.ledger_cases import DATA_ID

digests = st.integers(1, 2**256 - 1).map(lambda number: f"{number:064x}")
sums = st.floats(0, 1000)
heads = st.builds(
    Head,
    seq=st.integers(1, 2**63),
    hash=digests,
    epsilon=sums,
    delta=sums,
    marks=st.lists(digests.map(lambda digest: digest[-16:]).filter(lambda mark: int(mark, 16) > 0), max_size=NUM_MARKS)
    .map(tuple),
)  # fmt: skip


@given(heads)
def test_a_head_comes_back(head: Head) -> None:
    token = seal(head, DATA_ID)
    assert unseal(token, DATA_ID) == head
    assert seal(head, DATA_ID) != token  # a server cannot tell that nothing happened
    assert len(token) == 200
    pattern = get_args(Wire)[1].metadata[0].pattern if hasattr(get_args(Wire)[1], "metadata") else None
    assert re.fullmatch(pattern or r"[A-Za-z0-9+/]{40,200}={0,2}", token)


@given(heads, st.integers(0, 147), st.integers(1, 255))
def test_a_forged_head_is_refused(head: Head, at: int, flip: int) -> None:
    raw = bytearray(base64.b64decode(seal(head, DATA_ID)))
    raw[at] ^= flip
    with pytest.raises(WireError):
        unseal(base64.b64encode(bytes(raw)).decode(), DATA_ID)


def test_another_data_sets_head_is_refused() -> None:
    token = seal(Head(1, "0" * 64, 0.0, 0.0), DATA_ID)
    for bad in (token[:-4], token + "AAAA", " " + token, "", "ä" * 200, "A" * 200):
        with pytest.raises(WireError):
            unseal(bad, DATA_ID)
    with pytest.raises(WireError):
        unseal(token, "f" * 32)


def test_sums_that_cannot_be_are_refused() -> None:
    for epsilon in (math.nan, math.inf, -1.0):
        with pytest.raises(WireError):
            unseal(seal(Head(1, "0" * 64, epsilon, 0.0), DATA_ID), DATA_ID)
    with pytest.raises(WireError):
        unseal(seal(Head(0, "0" * 64, 0.0, 0.0), DATA_ID), DATA_ID)
