import json
import math
import os
import re
import subprocess
import sys
from decimal import ROUND_CEILING, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from privet.common.privacy import (
    Adjacency,
    EvaluateEvent,
    Statement,
    TrainEvent,
    advantage,
    epsilon,
    person_epsilon,
    true_positive_bound,
)
from privet.common.privacy.events import Release
from privet.common.privacy.statement import statement
from privet.common.privacy.words import _up, _up_short, percent_up
from privet.common.tasks.words import TASK_WORDS


def event(**changes: Any) -> TrainEvent:
    figures: dict[str, Any] = {
        "sample_rate": 0.1,
        "noise_multiplier": 1.5,
        "steps": 5,
        "max_grad_norm": 1.0,
        "expected_batch": 32,
        "unit": "unit",
        "max_records": 4,
    }
    return TrainEvent(**figures | changes)


def measured(**changes: Any) -> Statement:
    """Of a record mode with evaluations and people held to two records."""
    values: dict[str, Any] = {
        "released": ("update", "per_class"),
        "evaluation": EvaluateEvent(noise_multiplier=4.0, release="per_class", unit="record"),
        "num_evaluations": 4,
        "train_fraction": 0.8,
        "max_per_person": 2,
    }
    return statement(event(unit="record", max_records=1), 20, 1e-5, **values | changes)


@pytest.fixture(scope="module")
def plain() -> Statement:
    return statement(event(), 20, 1e-5, released=("update",), declared_weight=3.0)


def test_the_figures_are_the_accountant_s(plain: Statement) -> None:
    events = [event()] * 20
    assert plain.guarantee
    assert plain.epsilon == epsilon(events, 1e-5) == pytest.approx(3.536, abs=0.001)
    assert plain.epsilon_replace == epsilon(events, 1e-5, Adjacency.REPLACE) == pytest.approx(6.154, abs=0.001)
    assert plain.advantage == advantage(events)
    assert plain.true_positive_bound == true_positive_bound(events, 0.01)
    assert (plain.sample_rate, plain.noise_multiplier, plain.local_steps, plain.rounds) == (0.1, 1.5, 5, 20)
    assert (plain.max_grad_norm, plain.expected_batch, plain.max_records, plain.delta) == (1.0, 32, 4, 1e-5)
    assert plain.accountant.startswith("dp-accounting ")
    assert plain.declared_weight == 3.0


def test_the_figures_of_evaluations_and_people() -> None:
    full = measured()
    events = [event(unit="record", max_records=1)] * 20
    counts = [EvaluateEvent(noise_multiplier=4.0, release="per_class", unit="record")] * 4
    assert full.epsilon == max(epsilon(events, 1e-5), epsilon(counts, 1e-5))
    assert full.epsilon_person == person_epsilon(events, counts, 1e-5, 2) == pytest.approx(7.96, abs=0.01)
    assert full.evaluation is not None
    assert (full.evaluation.release, full.evaluation.noise_multiplier, full.evaluation.evaluations) == (
        "per_class",
        4,
        4,
    )
    assert [point.false_positive_rate for point in full.trade_off] == [0.001, 0.01, 0.1]
    assert full.trade_off[1].true_positive_bound == full.true_positive_bound
    assert full.mu is not None
    assert measured(max_per_person=None).epsilon_person is None
    dearer = measured(
        evaluation=EvaluateEvent(noise_multiplier=1.0, release="per_class", unit="record"), max_per_person=None
    )
    assert dearer.epsilon is not None
    assert dearer.epsilon > full.epsilon
    assert dearer.advantage > full.advantage
    assert dearer.true_positive_bound > full.true_positive_bound
    assert Statement.from_json(json.loads(json.dumps(full.to_json(), allow_nan=False))) == full


def test_an_older_statement_is_read_as_what_held_then(plain: Statement) -> None:
    since = {"max_per_person", "epsilon_person", "trade_off", "mu", "mu_meaning", "train_fraction", "evaluation"}
    old = Statement.from_json({name: value for name, value in plain.to_json().items() if name not in since})
    assert (old.train_fraction, old.evaluation, old.mu, old.epsilon_person, old.trade_off) == (
        1.0,
        None,
        None,
        None,
        (),
    )
    assert old.in_words()
    assert ("mu (approximate, down to delta)", "not stated") in old.table()


def test_an_evaluation_without_noise_is_no_guarantee() -> None:
    bare = measured(evaluation=EvaluateEvent(noise_multiplier=0.0, release="per_class", unit="record"))
    assert not bare.guarantee
    assert (bare.epsilon, bare.epsilon_person, bare.mu, bare.advantage) == (None, None, None, 1.0)
    assert "no noise was added" in " ".join(bare.in_words())


def test_words_tell_of_people_metrics_and_odds() -> None:
    words = " ".join(measured(declared_weight=2.0).in_words())
    assert "of which the site holds 2 records at most, is protected by epsilon = 7.97 at the same delta" in words
    assert "no claim for a person" not in words
    assert "odds of at most 34.33 to 1" in words
    assert "wrong on 1 in 1,000, at most " in words
    assert "about 80 in 100 do, the others are only measured" in words
    assert "Up to 4 times the records that do not train were counted" in words
    assert "noise of deviation 4 was added to every count" in words
    assert (
        "What left the site: update, noised counts (per_class), the weight that the site declared, and this page."
        in words
    )
    tiny = measured(evaluation=None, num_evaluations=0, released=("update",)).in_words()
    assert "the others are only left out" in " ".join(tiny)
    loose = statement(event(noise_multiplier=0.3), 20, 1e-5, released=("update",))
    assert "next to no limit" in " ".join(loose.in_words())


RELEASES: dict[str, tuple[Release, ...]] = {
    "classification": ("accuracy", "per_class", "confusion"),
    "multilabel": ("accuracy", "per_class"),
    "tokens": ("accuracy", "per_class"),
}


@pytest.mark.parametrize("kind", RELEASES)
def test_what_was_counted_is_told_as_the_task_counts_it(kind: str) -> None:
    """Decisions on codes have four kinds; entities are found, said wrongly and missed, and clipped."""
    assert set(RELEASES) == set(TASK_WORDS)
    for release in RELEASES[kind]:
        evaluation = EvaluateEvent(noise_multiplier=4.0, release=release, unit="record")
        stated = measured(evaluation=evaluation, released=("update", release))
        words, rows = " ".join(stated.in_words(kind)), dict(stated.table(kind))
        assert ("labelled rightly" in words) == (kind == "classification" and release != "confusion")
        assert ("rightly said, wrongly said, missed and rightly left out" in words) == (kind == "multilabel")
        for part in ("entities were found", "said that are none", "were missed", "counts for less than it has"):
            assert (part in words) == (kind == "tokens")
        assert ("all labels" in words or "all types" in words) == (kind != "classification" and release == "accuracy")
        assert (f"noised counts ({release})" in words) == (kind == "classification")
        assert (rows["metrics"] == f"{release}, 4 times") == (kind == "classification")
        assert ("entities" in rows["metrics"]) == (kind == "tokens")
        assert ("decisions" in rows["metrics"]) == (kind == "multilabel")


def test_a_bound_below_one_is_never_shown_as_100_per_cent() -> None:
    """And says that it is a limit, no finding. At ε 8 and more what stands there is true, and must not read as doom."""
    high = {"true_positive_bound": 0.99966, "advantage": 0.9996601, "trade_off": ()}
    loose = measured().model_copy(update=high)
    words = " ".join(loose.in_words())
    assert "finds at most 99.97 in 100" in words
    assert dict(loose.table())["membership advantage"] == "at most 99.97 %"
    assert "100.0" not in words + str(loose.table())
    assert "not what an attack was found to reach" in words
    assert "not what an attack" not in " ".join(measured().in_words())


@given(st.floats(0, 1))
def test_a_percentage_never_understates(share: float) -> None:
    shown = Decimal(percent_up(share).removesuffix(" %"))
    assert shown >= 100 * Decimal(share) or shown == Decimal(repr(100 * share)).quantize(shown, ROUND_CEILING)
    assert shown < 100 or share > 1 - 1e-8
    assert shown - 100 * Decimal(share) < Decimal("0.1001")


def test_the_table_has_every_figure() -> None:
    rows = dict(measured().table())
    assert rows["epsilon, a person with at most 2 records"] == "7.97"
    assert rows["true positives at 1 % false positives"] == "at most 6.0 %"
    assert rows["metrics"] == "per_class, 4 times"
    assert rows["noise multiplier, metrics"] == "4"
    assert rows["share of the records that train"] == "80 %"
    assert rows["mu (approximate, down to delta)"] == "0.831"
    assert rows["guarantee"] == "yes"
    assert dict(measured(max_per_person=None).table())["epsilon, a person"] == "no claim"
    unit = dict(statement(event(), 20, 1e-5, released=("update",)).table())
    assert not any("person" in label for label in unit)
    assert unit["metrics"] == "none"


def test_people_are_for_record_mode_only() -> None:
    with pytest.raises(ValueError, match="record mode"):
        statement(event(), 20, 1e-5, released=("update",), max_per_person=2)


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon_person": 1.0},  # less than a record's
        {"max_per_person": None},
        {"max_per_person": 0},
        {"unit": "unit"},
        {"evaluation": {"release": "loss", "noise_multiplier": 4.0, "evaluations": 4}},
        {"evaluation": {"release": "accuracy", "noise_multiplier": -1.0, "evaluations": 4}},
        {"evaluation": {"release": "accuracy", "noise_multiplier": 0.0, "evaluations": 4}},
        {"evaluation": {"release": "accuracy", "noise_multiplier": 1.0, "evaluations": 4, "surplus": 1}},
        {"train_fraction": 1.0},
        {"train_fraction": 0.0},
        {"mu": -1.0},
        {"mu": math.nan},
        {"mu_meaning": "exact"},
        {"trade_off": [{"false_positive_rate": 0.01, "true_positive_bound": 0.0}]},
        {"trade_off": [{"false_positive_rate": 0.1, "true_positive_bound": 0.5}] * 2},
        {"trade_off": [{"false_positive_rate": 0.0, "true_positive_bound": 0.5}]},
        {"trade_off": [{"false_positive_rate": i / 100, "true_positive_bound": 0.5} for i in range(20, 40)]},
    ],
    ids=repr,
)
def test_a_hostile_statement_of_evaluations_and_people_is_refused(change: dict[str, Any]) -> None:
    raw = measured().to_json() | change
    for read in (Statement.from_json, lambda raw: Statement.model_validate_json(json.dumps(raw))):
        with pytest.raises(ValidationError):
            read(raw)


def test_it_survives_the_wire(plain: Statement) -> None:
    assert Statement.model_validate_json(plain.model_dump_json()) == plain
    assert Statement.from_json(json.loads(json.dumps(plain.to_json(), allow_nan=False))) == plain
    bare = statement(event(noise_multiplier=0.0), 20, 1e-5, released=("update",))
    assert Statement.model_validate_json(bare.model_dump_json()) == bare


def test_words_for_a_unit(plain: Statement) -> None:
    words = plain.in_words()
    text = " ".join(words)
    assert all(line.endswith(".") and "\n" not in line for line in words)
    assert "epsilon = 3.54" in text  # rounded up
    assert "epsilon = 6.16" in text
    assert "delta = 1e-05" in text
    assert "rewriting records within one unit is protected less" in text
    assert "at several sites the losses of all those sites add up" in text
    assert "at most 6.0 in 100" in text
    assert "20 rounds of 5 steps" in text
    assert "noise 1.5 times" in text
    assert "no claim for a person" not in text
    assert "no privacy guarantee" not in text


def test_words_for_a_record_make_no_claim_for_a_person() -> None:
    text = " ".join(statement(event(unit="record"), 20, 1e-5, released=("update",)).in_words())
    assert "no claim for a person" in text
    assert "whole" not in text
    assert " unit" not in text


def test_without_noise_there_is_no_guarantee_whatever_is_asked() -> None:
    bare = statement(event(noise_multiplier=0.0), 20, 1e-5, released=("update",), guarantee=True)
    assert not bare.guarantee
    assert (bare.epsilon, bare.epsilon_replace, bare.advantage, bare.true_positive_bound) == (None, None, 1.0, 1.0)
    text = " ".join(bare.in_words())
    assert "no privacy guarantee: no noise is added" in text
    assert "epsilon" not in text


def test_a_simulation_says_so_first() -> None:
    words = statement(
        event(), 20, 1e-5, released=("update",), guarantee=False, reason="a simulation holds all data in one place"
    ).in_words()
    assert words[0] == "This is no privacy guarantee: a simulation holds all data in one place."
    assert words[1].startswith("As if computed for a real site: ")


def test_a_delta_too_small_for_the_accountant_is_no_guarantee() -> None:
    tiny = statement(event(), 20, 1e-18, released=("update",))
    assert not tiny.guarantee
    assert tiny.epsilon is None


def test_a_reason_is_required_exactly_where_there_is_no_guarantee() -> None:
    with pytest.raises(ValidationError, match="reason"):
        statement(event(), 20, 1e-5, released=("update",), guarantee=False)
    with pytest.raises(ValidationError, match="reason"):
        statement(event(), 20, 1e-5, released=("update",), reason="though")


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": -0.1},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"epsilon": 1e300},
        {"epsilon": "3.5"},
        {"epsilon": None},
        {"epsilon": None, "epsilon_replace": None},
        {"epsilon_replace": None},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": 1e9},
        {"delta": 0.0},
        {"delta": 1.0},
        {"advantage": 1.5},
        {"true_positive_bound": -0.1},
        {"sample_rate": 0.0},
        {"sample_rate": 1.1},
        {"sample_rate": True},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 1e9},
        {"rounds": 0},
        {"rounds": 1.5},
        {"rounds": 10**12},
        {"rounds": True},
        {"local_steps": 0},
        {"expected_batch": 0},
        {"max_records": 10**9},
        {"declared_weight": 0.0},
        {"declared_weight": math.nan},
        {"guarantee": 1},
        {"guarantee": "true"},
        {"unit": "person"},
        {"format": 2},
        {"mechanism": "trust me"},
        {"sampling": "shuffled"},
        {"accountant": "dp-accounting 0.6.0, privacy loss distributions\n"},
        {"accountant": "x" * 10_000},
        {"guarantee": False, "reason": "<script>alert(1)</script>"},
        {"guarantee": False, "reason": "two\nlines"},
        {"guarantee": False, "reason": "ends in a line break\n"},
        {"guarantee": False, "reason": "\x1b[2J"},
        {"guarantee": False, "reason": "[a link](x)"},
        {"guarantee": False, "reason": "\u202e"},
        {"guarantee": False, "reason": "a" * 301},
        {"released": ["Update"]},
        {"released": ["update\n"]},
        {"released": ["u" * 65]},
        {"released": ["update"] * 17},
        {"released": "update"},
        {"surplus": 1},
    ],
    ids=repr,
)
def test_a_hostile_statement_is_refused(plain: Statement, change: dict[str, Any]) -> None:
    raw = plain.to_json() | change
    for read in (Statement.from_json, lambda raw: Statement.model_validate_json(json.dumps(raw))):
        with pytest.raises(ValidationError):
            read(raw)


@pytest.mark.parametrize(
    "name", ["guarantee", "unit", "delta", "epsilon", "accountant", "noise_multiplier", "released"]
)
def test_a_field_that_is_missing_is_refused(plain: Statement, name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Statement.from_json({key: value for key, value in plain.to_json().items() if key != name})


def test_it_is_frozen(plain: Statement) -> None:
    with pytest.raises(ValidationError):
        plain.epsilon = 0.1


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.54, "3.54"), (3.5400000001, "3.55"), (0.0, "0.00"), (1e-12, "0.01"), (12.0, "12.00"), (1e5, "100000.00")],
)
def test_figures_are_rounded_up(value: float, text: str) -> None:
    assert _up(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-05"), (1.234e-5, "1.24e-05"), (5.0001e-6, "5.01e-06"), (9.991e-6, "1e-05"), (0.00123, "0.00123")],
)
def test_delta_is_rounded_up(plain: Statement, value: float, text: str) -> None:
    assert _up_short(value) == text
    words = " ".join(plain.model_copy(update={"delta": value}).in_words())
    assert f"a chance of delta = {text}." in words


@pytest.mark.parametrize("unit", ["unit", "record"])
def test_the_words_cover_this_plan_alone(unit: str) -> None:
    words = " ".join(statement(event(unit=unit), 20, 1e-5, released=("update",)).in_words())
    assert "for this plan at this site alone" in words
    assert "Every other training on the same data, of this federation or another, adds to them" in words


def test_importing_the_room_is_light() -> None:
    program = (
        "import sys, privet.common.privacy, privet.common.privacy.statement; "
        "print([name for name in ('torch', 'scipy', 'dp_accounting', 'opacus') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert re.fullmatch(r"\[\]\s*", done.stdout), done.stdout
