"""A plan in words: all that leaves and costs is named, what changed is told, and no word steers a terminal."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client.describe import changes, describe, guess_bound, odds
from privet.client.flows import ENVELOPE_BYTES, STATEMENT_BYTES, flows
from privet.client.ledger.head import Head, seal
from privet.client.policy import Admission
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import Reply, ReplyBody, pack
from privet.common.privacy.events import EvaluateEvent, Release
from privet.common.tasks.counts import num_cells
from privet.common.terminal import printable
from tests.client.approval_cases import edit, evaluating_plan
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

PENDING: dict[str, Any] = {"decision": "pending", "code": Code.PENDING, "reason": "It waits."}


def _words(plan: Plan, admission: Admission, known: Plan | None = None, **site: Any) -> str:
    return "\n".join(describe(plan, admission, make_site(**site), update_bytes=12_345, known=known))


def _evaluated(release: Release, **changes: Any) -> Admission:
    event = EvaluateEvent(noise_multiplier=1.75, release=release, unit="unit")
    return make_admission(evaluating_plan(release), evaluation=event, num_evaluations=3, **{**PENDING, **changes})


def test_the_words_name_everything_that_leaves_and_costs() -> None:
    plan = make_plan()
    text = _words(plan, make_admission(plan, **PENDING), member={"declared_weight": 120.0})
    for words in (
        plan.digest, "wards", "'calm', 'urgent'", "package:tiny", "head", "3 rounds and 1 spare", "2 local steps",
        "10 units", "100 % of the declared 1,000 units", "no evaluation at this site", "12,345 bytes",
        "at most 4 times", "privacy statement", "declared weight: 120", "status code", "sealed ledger head",
        "message envelope", "never given back", "epsilon 3", "delta 5e-06", "noise multiplier 1.25",
        "sampling rate 0.01", f"privet approve SITE.toml {plan.digest}",
    ):  # fmt: skip
        assert words in text, words
    assert "evaluation counts" not in text
    assert "privet approve" not in _words(plan, make_admission(plan))
    assert "the size of the plan's adapter" in "\n".join(
        describe(plan, make_admission(plan), make_site(), update_bytes=None, known=None)
    )
    refusal = replace(make_admission(plan, **PENDING), decision="refused", event=None)
    assert _words(plan, refusal, name="branches").endswith("ledger head: the plan is refused.")
    assert "12,345" not in _words(plan, refusal)


@pytest.mark.parametrize("release", ["accuracy", "per_class", "confusion"])
def test_evaluations_are_named_with_their_bytes_and_errors(release: Release) -> None:
    plan, cells = evaluating_plan(release), num_cells(release, 2)
    text = _words(plan, _evaluated(release), member={"release": ["update", release]})
    for words in (
        f"3 evaluations, after every round: counts of kind {release}", f"{cells} float32 cells",
        f"{4 * cells} bytes, once an evaluation, at most 3 times", "evaluation: noise multiplier 1.75",
        "80 % of the declared 1,000 units, and to keep the others", "over about 200 validation units",
    ):  # fmt: skip
        assert words in text, words
    # By hand: sigma / n, times the root of the larger number of cells that are summed.
    noise = {"accuracy": 1.75 / 200, "per_class": 1.75 * math.sqrt(2) / 200, "confusion": 1.75 * math.sqrt(2) / 200}
    assert f"accuracy {noise[release]:.2g}" in text
    assert (f"{1.75 / 100:.2g}" in text) == (release != "accuracy")  # of one label: two cells, 100 units
    assert f"at most {0.5 / math.sqrt(200):.2g}" in text


@pytest.mark.parametrize("release", ["accuracy", "per_class"])
def test_counts_of_codes_and_of_entities_are_told_as_such(release: Release) -> None:
    """In what is asked as in what leaves: neither is how many records are right and how many wrong."""
    plain, found = evaluating_plan(release), dict[str, str]()
    for kind, pooling in (("multilabel", plain.model.pooling), ("tokens", "none")):
        plan = edit(plain, task={"kind": kind}, model={"pooling": pooling})
        found[kind] = _words(plan, _evaluated(release), member={"release": ["update", release]})
        assert "rightly and how many wrongly" not in found[kind]
    words = {"accuracy": ("over all labels together, how often", "over all types together, how many entities")}
    told = words.get(release, ("for each label, how often it was rightly said", "for each type, how many entities"))
    assert [text.count(part) for part, text in zip(told, found.values(), strict=True)] == [2, 2]


def test_keys_that_a_plan_leaves_out_are_told_as_what_they_mean() -> None:
    plain = edit(make_plan(), task={"kind": "tokens"}, model={"pooling": "none"})
    assert changes(plain, edit(plain, task={"entity_bound": 8.0}))[0] == "task.entity_bound: 4.0 → 8.0"
    assert (
        changes(make_plan(), edit(make_plan(), task={"label_smoothing": 0.1}))[0] == "task.label_smoothing: 0.0 → 0.1"
    )


def test_lora_from_a_later_layer_on_is_told_and_so_is_its_change() -> None:
    plain = edit(make_plan(), method={"kind": "fedavg"})
    upper = edit(plain, lora={"first_layer": 3})
    words = "LoRA on the base's layers from number 3 on"
    assert words in _words(upper, make_admission(upper, **PENDING))
    assert words not in _words(edit(upper, method={"kind": "head"}), make_admission(upper, **PENDING))
    assert "first_layer" not in _words(plain, make_admission(plain, **PENDING))
    assert changes(plain, upper) == ["lora.first_layer: 0 → 3", "unchanged otherwise"]
    assert changes(upper, plain) == ["lora.first_layer: 3 → 0", "unchanged otherwise"]


def test_a_site_that_releases_no_metrics_is_told_so() -> None:
    plan = evaluating_plan("confusion")
    text = _words(plan, make_admission(plan, **PENDING))
    assert 'federation.wards.release does not hold "confusion"' in text
    assert "without evaluations" in text
    assert "evaluation counts" not in text
    assert "predicted standard error" not in text


def test_what_is_told_is_what_is_sent() -> None:
    """The list of flows against the reply's own fields; each has a bound that a real reply keeps."""
    names = [flow.name for flow in flows(evaluating_plan(), _evaluated("accuracy"), make_site(), update_bytes=8)]
    assert names == [
        "the update", "the evaluation counts", "the privacy statement", "the declared weight", "a status code",
        "the sealed ledger head", "the message envelope",
    ]  # fmt: skip
    assert set(ReplyBody.model_fields) == {"kind", "code", "plan_digest", "round", "statement", "head"}
    heads = {
        len(seal(Head(seq=seq, hash=digit * 64, epsilon=epsilon, delta=1e-6), DATA_ID))
        for seq, digit, epsilon in ((0, "0", 0.0), (10**9, "f", 1 / 3))
    }
    (size,) = heads  # of one length, whatever it says
    assert "sealed ledger head: " in _words(make_plan(), make_admission(make_plan()))
    assert f"; {size} bytes, always" in _words(make_plan(), make_admission(make_plan()))
    bare = pack(Reply(ReplyBody(code=Code.ADAPTER_MISMATCH, plan_digest="a" * 64, round=1_000_000)))
    assert len(bare) < ENVELOPE_BYTES


def test_a_statement_keeps_its_bound() -> None:
    from privet.client.policy import statement_for

    plan = evaluating_plan("confusion")
    stated = statement_for(_evaluated("confusion"), make_site(member={"declared_weight": 1e9 / 3}), plan)
    assert len(stated.model_dump_json()) < STATEMENT_BYTES / 2


# What epsilon means


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(0.0, "50.0"), (1.0, "73.2"), (3.0, "95.3"), (8.0, "99.97"), (40.0, "100")]
)
def test_the_odds_are_those_of_the_epsilon(epsilon: float, shown: str) -> None:
    assert f"at most {shown} %" in odds(epsilon, 0.0, "unit")
    assert "one record" in odds(epsilon, 0.0, "record")
    assert ("a limit and no finding" in odds(epsilon, 0.0, "unit")) == (epsilon >= 3)


@settings(max_examples=200, deadline=None)
@given(epsilon=st.floats(0, 1000), delta=st.floats(0, 0.01), alarm=st.floats(0, 1))
def test_no_test_of_membership_beats_the_bound(epsilon: float, delta: float, alarm: float) -> None:
    """The best hit rate that (epsilon, delta) allows, from both directions of the definition."""
    grown = math.exp(min(epsilon, 700.0))
    hits = min(1.0, grown * alarm + delta, 1 - (1 - delta - alarm) / grown)
    assert (hits + 1 - alarm) / 2 <= guess_bound(epsilon, delta) + 1e-12
    assert 0.5 <= guess_bound(epsilon, delta) <= 1


# Changes


def test_a_changed_plan_is_told_key_by_key() -> None:
    old = make_plan()
    new = edit(
        old, method={"kind": "ffa"}, training={"rounds": 5}, task={"labels": ["other", "calm"]},
        model={"base": "package:new\x1b"}, lora={"targets": ["value"]},
    )  # fmt: skip
    assert sorted(changes(old, new)) == sorted(
        [
            "method.kind: 'head' → 'ffa'",
            "training.rounds: 3 → 5",
            "task.labels, 1 added: 'other'",
            "task.labels, 1 removed: 'urgent'",
            "model.base: 'package:tiny' → 'package:new\\x1b'",
            "lora.targets: ['query', 'value'] → ['value']",
            "unchanged otherwise",
        ]
    )
    text = _words(new, make_admission(new, **PENDING), known=old)
    assert f"Against plan {old.digest[:16]}" in text
    assert "training.rounds: 3 → 5" in text
    assert "unchanged otherwise" in text
    assert "Against plan" not in _words(old, make_admission(old, **PENDING), known=old)
    assert "Against plan" not in _words(old, make_admission(old, **PENDING))


def test_labels_in_another_order_are_another_plan() -> None:
    old = make_plan()
    assert changes(old, edit(old, task={"labels": ["urgent", "calm"]}))[0] == "task.labels: in another order"


def test_every_key_of_a_plan_is_compared() -> None:
    """By brute force: whatever differs in the canonical text is told."""
    old = make_plan()
    others = [
        edit(old, format=1, name="other"), edit(old, method={"seed": 1}), edit(old, method={"server_momentum": 0.5}),
        edit(old, training={"max_grad_norm": 0.5}), edit(old, training={"train_fraction": 0.5}),
        edit(old, evaluation={"every": 7}), edit(old, evaluation={"keep": "best"}),
        edit(old, cohort={"weight": "uniform"}), edit(old, model={"pooling": "cls"}), edit(old, lora={"rank": 3}),
        edit(old, task={"max_length": 64, "buckets": []}),
    ]  # fmt: skip
    for other in others:
        assert other.digest != old.digest
        assert len(changes(old, other)) >= 2, other
    assert changes(old, old) == ["unchanged otherwise"]


hostile = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(hostile, min_size=2, max_size=30, unique_by=lambda text: text.strip()), base=hostile)
def test_no_word_of_the_server_steers_a_terminal(labels: list[str], base: str) -> None:
    old = make_plan()
    weighed = {"kind": "multilabel", "class_weights": dict.fromkeys(labels, 2.0), "thresholds": {labels[0]: 0.2}}
    try:
        new = edit(old, task={"labels": labels, **weighed}, model={"base": base})
    except ValueError:  # two labels that are one in Unicode's NFC
        return
    for known, plan in ((old, new), (new, old)):
        for line in describe(plan, make_admission(plan, **PENDING), make_site(), update_bytes=1, known=known):
            assert line.isprintable()


def test_no_plan_is_so_long_that_its_price_is_not_seen() -> None:
    """The client shows 20,000 characters of a plan that waits."""
    hidden = chr(0xE0001)  # takes ten characters when it is escaped
    labels = [f"{hidden * 190}{number}" for number in range(50)] + [f"{hidden * 20}{number}" for number in range(1900)]
    weighed = {"class_weights": dict.fromkeys(labels, 2.0), "thresholds": dict.fromkeys(labels, 0.25)}
    old = make_plan()
    new = edit(old, task={"kind": "multilabel", "labels": labels, **weighed})
    for known, plan in ((old, new), (new, old)):
        lines = describe(plan, make_admission(plan, **PENDING), make_site(), update_bytes=1, known=known)
        text = printable("\n".join(lines))
        assert "epsilon 3, delta" in text
        assert f"To approve: privet approve SITE.toml {plan.digest}" in text


def test_an_adapter_to_start_from_is_told_and_is_a_change() -> None:
    plan = make_plan()
    started = plan.model_copy(update={"method": plan.method.model_copy(update={"init": "ab" * 32})})
    assert changes(plan, started) == [f"method.init: none → {'ab' * 32!r}", "unchanged otherwise"]
    assert changes(started, plan) == [f"method.init: {'ab' * 32!r} → none", "unchanged otherwise"]
    words = _words(started, make_admission(started, **PENDING), known=plan)
    assert f"starts from an adapter with digest {'ab' * 32}, trained before; what was spent for it stays" in words


def test_a_schedule_is_told_and_so_is_its_change() -> None:
    plain = make_plan()
    falling = edit(plain, training={"schedule": "cosine", "warmup_rounds": 1})
    text = _words(falling, make_admission(falling, **PENDING))
    assert "after 1 round of warm-up, then falling along a cosine to" in text
    told = ["training.schedule: 'constant' → 'cosine'", "training.warmup_rounds: 0 → 1"]
    assert set(told) <= set(changes(plain, falling))
