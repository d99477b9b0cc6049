"""What the texts suggest, in counts alone."""

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client.preflight.content import facts, look, warnings
from privet.client.report import lines, to_json
from tests.client.test_report import REPORT, make_site


def told(texts: list[str], units: list[int] | None = None, labels: list[str] | None = None, **options: Any) -> str:
    """Everything that is shown of it."""
    content = look(texts, np.array(units or range(len(texts)), np.int64), labels or ["a"] * len(texts), **options)
    return "\n".join(lines(REPORT, make_site(), content=content)) + json.dumps(to_json(REPORT, content=content))


def test_a_text_under_two_units_is_counted_and_warned_of() -> None:
    content = look(["fever  today", "fever today", "cough", "cough"], np.array([0, 1, 2, 2]), list("abab"))
    assert (content.shared_texts, content.sharing_units) == (1, 2)
    assert "two units or more" in warnings(content)[0]
    assert not look(["a", "a"], np.array([4, 4]), list("ab")).shared_texts


def test_columns_that_say_nothing_are_warned_of() -> None:
    same = look(["n/a"] * 9 + ["x"], np.arange(10), ["calm"] * 10)
    assert same.commonest_text == 0.9
    assert sum("one and the same" in warning for warning in warnings(same)) == 2
    varied = look([f"text {n}" for n in range(10)], np.arange(10), list("ababababab"))
    assert not warnings(varied)
    empty = look([], np.array([], np.int64), [])
    assert not warnings(empty)


def test_identifiers_are_counted_by_text_and_kind() -> None:
    texts = ["mail a@example.org or b@example.org", "mail c@example.org", "seen 2024-02-29", "nothing"]
    content = look(texts, np.arange(4), list("abab"))
    assert content.identifiers == {"e-mail addresses": 2, "dates": 1}
    assert content.any_personal == 2
    assert dict(facts(content)[1][1])["e-mail addresses"] == "2 texts (50.0%)"
    assert "likely hold identifiers" in warnings(content)[-1]
    only_dates = look(["seen 2024-02-29", "no"], np.arange(2), list("ab"))
    assert not warnings(only_dates)


def test_beyond_the_limit_texts_are_not_searched_and_that_is_said() -> None:
    texts = [f"nothing {n}" for n in range(5)] + ["a@example.org"]
    assert "the first 5 of 6" in told(texts, limit=5)
    assert "e-mail" not in told(texts, limit=5)
    assert "e-mail" in told(texts, limit=6)


SECRETS = st.lists(
    st.sampled_from(["zebrafish@example.org", "+49 30 901820", "DE89370400440532013000", "1961-02-03", "943 476 5919"])
    | st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=6, max_size=30),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(SECRETS, st.booleans())
def test_no_text_and_no_label_is_ever_told(secrets: list[str], shared: bool) -> None:
    """Whatever stands in the texts: the words told are those of a harmless file, but for the counts."""
    texts = [f"planted {secret}" for secret in secrets]
    units = [0] * len(texts) if shared else None
    shown = told(texts, units, secrets)
    harmless = told(["planted"], None, ["a"])
    from privet.client.preflight.identifiers import KINDS

    known = harmless + " ".join(KINDS)
    assert "planted" not in shown
    for secret in secrets:
        assert secret not in shown or secret in known or secret.isdigit()
    for text in ("zebrafish", "901820", "0440532013", "1961", "476"):
        assert text not in shown
