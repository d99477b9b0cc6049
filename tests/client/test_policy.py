"""Admission: every rule refuses, the share is what is left, and the noise covers the whole horizon."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client.policy import Admission, Committed, admit, allow_budget, recheck, statement_for
from privet.client.rules import allow_release, in_words
from privet.common.config import Plan
from privet.common.errors import Code, InputError, RefusedError
from privet.common.privacy import calibration
from privet.common.privacy.accountant import epsilon as composed_epsilon
from privet.common.privacy.events import EvaluateEvent
from tests.client.approval_cases import edit, evaluating_plan, several
from tests.client.ledger_cases import NOTHING, make_admission, make_plan, make_site

FIRST_USE = {"approve": "first-use"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A calibration that answers 1.2345 at once and keeps what it was asked."""
    calls: list[dict[str, Any]] = []

    def answer(**arguments: Any) -> float:
        calls.append(arguments)
        return 1.2345

    monkeypatch.setattr(calibration, "noise_multiplier", answer)
    return calls


def test_the_noise_covers_the_whole_horizon_and_no_less() -> None:
    plan, site = make_plan(), make_site()
    admission = admit(plan, site, NOTHING)
    event = admission.event
    assert event is not None
    assert admission.decision == "pending"
    assert admission.horizon == 4  # planned and spare
    assert event.steps == 2
    assert composed_epsilon([event] * admission.horizon, 5e-6) <= 3.0
    less = replace(event, noise_multiplier=event.noise_multiplier - 0.001)
    assert composed_epsilon([less] * admission.horizon, 5e-6) > 3.0


def test_what_is_fixed_at_admission(asked: list[dict[str, Any]]) -> None:
    plan, site = make_plan(max_grad_norm=0.5), make_site()
    admission = admit(plan, site, NOTHING)
    assert asked == [{"sample_rate": 0.01, "steps": 8, "epsilon": 3.0, "delta": 5e-6}]
    event = admission.event
    assert event is not None
    assert event.noise_multiplier == 1.235  # rounded up
    assert (event.sample_rate, event.expected_batch, event.max_grad_norm) == (0.01, 10, 0.5)
    assert (event.unit, event.max_records) == ("unit", 4)
    assert (admission.epsilon, admission.delta) == (3.0, 5e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"schedule": "cosine", "warmup_rounds": 2, "final_rate": 0.5, "learning_rate": 100.0}},
        {"training": {"compression": "int8"}},
        {"training": {"compression": "fp16", "optimizer": "sgd", "weight_decay": 1.0}},
        {"task": {"class_weights": {"calm": 100.0}, "label_smoothing": 0.5}},
        {"task": {"kind": "multilabel", "class_weights": {"calm": 1e-9}, "thresholds": {"calm": 0.01}}},
        {"task": {"kind": "tokens", "entity_bound": 1000.0}, "model": {"pooling": "none"}},
    ],
)
def test_what_and_how_is_learned_changes_neither_noise_nor_price(change: dict[str, Any]) -> None:
    """A server chooses these freely: they are after the clip, or after the noise."""
    site = make_site(member={"release": ("update", "per_class")})
    plain, other = evaluating_plan("per_class"), edit(evaluating_plan("per_class"), **change)
    assert other.digest != plain.digest
    one, two = admit(plain, site, NOTHING), admit(other, site, NOTHING)
    assert one.event is not None
    assert (two.event, two.evaluation, two.epsilon, two.delta) == (one.event, one.evaluation, one.epsilon, one.delta)
    assert (two.horizon, two.num_evaluations) == (one.horizon, one.num_evaluations)


@pytest.mark.parametrize(("floor", "sigma"), [(0.5, 1.235), (1.2351, 1.236), (3.0, 3.0)])
def test_never_under_the_floor(asked: list[dict[str, Any]], floor: float, sigma: float) -> None:
    admission = admit(make_plan(), make_site(policy={"min_noise_multiplier": floor}), NOTHING)
    assert admission.event is not None
    assert admission.event.noise_multiplier == sigma
    assert admission.epsilon == 3.0  # a higher floor gives nothing back


def test_the_site_states_its_own_batch(asked: list[dict[str, Any]]) -> None:
    plan = make_plan(expected_batch="site")
    refused = admit(plan, make_site(), NOTHING)
    assert refused.code is Code.REFUSED_POLICY
    assert "set federation.wards.expected_batch" in refused.reason
    admitted = admit(plan, make_site(member={"expected_batch": 25}), NOTHING)
    assert admitted.event is not None
    assert (admitted.event.expected_batch, admitted.event.sample_rate) == (25, 0.025)
    fixed = admit(make_plan(), make_site(member={"expected_batch": 25}), NOTHING)
    assert fixed.event is not None
    assert fixed.event.expected_batch == 10  # only where the plan says "site"


@pytest.mark.parametrize(
    ("plan", "site", "words"),
    [
        ({"expected_batch": 1001}, {}, "max_sample_rate"),
        ({"expected_batch": 101}, {"policy": {"max_sample_rate": 0.1}}, "max_sample_rate"),
        ({}, {"policy": {"methods": ["fedavg"]}}, "policy.methods"),
        ({}, {"policy": {"max_rounds": 3}}, "policy.max_rounds"),
        ({}, {"policy": {"max_local_steps": 1}}, "policy.max_local_steps"),
        ({"local_steps": 1001}, {}, "policy.max_local_steps"),
        ({"rounds": 1000, "local_steps": 1000}, {}, "1,000,000 steps"),  # and one spare round
        ({}, {"member": {"release": []}}, "release"),
        ({}, {"name": "branches"}, "federation.wards"),
    ],
)
def test_a_rule_refuses(asked: list[dict[str, Any]], plan: dict[str, Any], site: dict[str, Any], words: str) -> None:
    site = {**site, "policy": {**FIRST_USE, **site.get("policy", {})}}
    admission = admit(make_plan(**plan), make_site(**site), NOTHING)
    assert (admission.decision, admission.code) == ("refused", Code.REFUSED_POLICY)
    assert words in admission.reason
    assert "Mend: " in admission.reason
    assert admission.event is None
    assert (admission.epsilon, admission.delta) == (0.0, 0.0)
    assert asked == []


def test_limits_themselves_pass(asked: list[dict[str, Any]]) -> None:
    site = make_site(policy={"max_sample_rate": 0.1, "max_rounds": 4, "max_local_steps": 2, "methods": ["head"]})
    assert admit(make_plan(expected_batch=100), site, NOTHING).decision == "pending"
    assert admit(make_plan(expected_batch=1000), make_site(), NOTHING).event is not None  # q = 1
    longest = make_plan(rounds=999, local_steps=1000)
    assert admit(longest, make_site(), NOTHING).event is not None


def test_an_offer_again_and_again_is_calibrated_once(asked: list[dict[str, Any]]) -> None:
    first = admit(make_plan(), make_site(), NOTHING)
    assert [admit(make_plan(), make_site(), NOTHING) for _ in range(5)] == [first] * 5
    assert len(asked) == 1
    other = make_site(member={"epsilon": 2.0})
    assert admit(make_plan(), other, NOTHING).epsilon == 2.0
    assert len(asked) == 2  # another share is another question


def test_noise_that_cannot_be_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(**arguments: Any) -> float:
        calls.append(arguments)
        raise InputError("out of reach.", mend="fewer rounds.")

    monkeypatch.setattr(calibration, "noise_multiplier", fail)
    first, again = (admit(make_plan(), make_site(), NOTHING) for _ in range(2))
    assert first == again
    assert first.code is Code.REFUSED_BUDGET
    assert len(calls) == 1


def test_another_kind_of_unit_is_refused(asked: list[dict[str, Any]]) -> None:
    for column, fixed in (("record", "unit"), ("patient", "record")):
        admission = admit(make_plan(), make_site(unit=column), replace(NOTHING, unit=fixed))  # type: ignore[arg-type]
        assert admission.code is Code.REFUSED_POLICY
        assert "data.unit" in admission.reason
    same = admit(make_plan(), make_site(unit="record"), replace(NOTHING, unit="record"))
    assert same.event is not None
    assert same.event.unit == "record"


def test_who_decides(asked: list[dict[str, Any]]) -> None:
    plan = make_plan()
    assert admit(plan, make_site(), NOTHING).decision == "pending"
    assert admit(plan, make_site(policy=FIRST_USE), NOTHING).decision == "approved"
    invited = make_site(policy=FIRST_USE, member={"plan": plan.digest})
    assert admit(plan, invited, NOTHING).decision == "approved"
    other = admit(make_plan(1), invited, NOTHING)
    assert (other.decision, other.code) == ("pending", Code.PENDING)
    assert plan.digest[:16] in other.reason
    assert other.event is not None


def test_a_second_plan_gets_what_is_left(asked: list[dict[str, Any]]) -> None:
    site = make_site(member={"epsilon": 4.0, "delta": 8e-6})
    held = Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit")
    second = admit(make_plan(1), site, held)
    assert second.epsilon == pytest.approx(1.0, rel=1e-9)
    assert second.delta == pytest.approx(3e-6, rel=1e-9)
    assert held.epsilon + second.epsilon <= 4.0
    # Another federation's plans count against the budget alone.
    elsewhere = Committed(epsilon=7.0, delta=5e-6, federation_epsilon=0.0, federation_delta=0.0, unit="unit")
    third = admit(make_plan(1), site, elsewhere)
    assert third.epsilon == pytest.approx(1.0, rel=1e-9)
    assert third.delta == pytest.approx(5e-6, rel=1e-9)


@pytest.mark.parametrize(
    "held",
    [
        Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit"),
        Committed(epsilon=1.0, delta=5e-6, federation_epsilon=1.0, federation_delta=5e-6, unit="unit"),  # no delta
        Committed(epsilon=2.995, delta=1e-6, federation_epsilon=2.995, federation_delta=1e-6, unit="unit"),
        Committed(epsilon=7.995, delta=1e-6, federation_epsilon=0.0, federation_delta=0.0, unit="unit"),
    ],
)
def test_nothing_left_is_refused(asked: list[dict[str, Any]], held: Committed) -> None:
    admission = admit(make_plan(1), make_site(policy=FIRST_USE), held)
    assert (admission.decision, admission.code) == ("refused", Code.REFUSED_BUDGET)
    assert "raise federation.wards.epsilon" in admission.reason
    assert "budget.epsilon" in admission.reason
    assert f"epsilon {held.federation_epsilon:g}" in admission.reason
    assert asked == []


def test_noise_out_of_reach_is_a_matter_of_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> float:
        raise InputError("out of reach.", mend="fewer rounds.")

    monkeypatch.setattr(calibration, "noise_multiplier", fail)
    admission = admit(make_plan(), make_site(policy=FIRST_USE), NOTHING)
    assert (admission.decision, admission.code) == ("refused", Code.REFUSED_BUDGET)
    assert "out of reach. Mend: fewer rounds." in admission.reason


@settings(max_examples=200, deadline=None)
@given(
    budget=st.floats(0.02, 1000),
    shares=st.lists(st.floats(0.02, 1000), min_size=2, max_size=6),
    delta=st.floats(1e-9, 1e-5),
)
def test_sums_never_pass_a_limit(budget: float, shares: list[float], delta: float) -> None:
    """Plan after plan under shares that the operator raises: the strict check of the ledger never has to object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "noise_multiplier", lambda **_: 1.0)
        taken: list[tuple[float, float]] = []
        for share in sorted(shares):
            site = make_site(
                budget={"epsilon": budget, "delta": delta},
                member={"epsilon": min(share, budget), "delta": delta * min(1.0, share / max(shares))},
            )
            sums = math.fsum(e for e, _ in taken), math.fsum(d for _, d in taken)
            held = Committed(
                epsilon=sums[0], delta=sums[1], federation_epsilon=sums[0], federation_delta=sums[1], unit=None
            )
            admission = admit(make_plan(), site, held)
            if admission.decision == "refused":
                continue
            taken.append((admission.epsilon, admission.delta))
            sums = math.fsum(e for e, _ in taken), math.fsum(d for _, d in taken)
            allow_budget(
                "wards",
                site,
                Committed(
                    epsilon=sums[0], delta=sums[1], federation_epsilon=sums[0], federation_delta=sums[1], unit=None
                ),
            )
        assert taken


def test_a_tightened_site_file_stops_an_approved_plan() -> None:
    plan = make_plan()
    approved = make_admission(plan)
    held = Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit")
    recheck(plan, approved, make_site(), held)
    recheck(plan, approved, make_site(budget={"declared_units": 100}), held)  # nothing is recomputed
    tightened: list[tuple[dict[str, Any], Code]] = [
        ({"unit": "record"}, Code.REFUSED_POLICY),
        ({"policy": {"methods": ["ffa"]}}, Code.REFUSED_POLICY),
        ({"policy": {"max_rounds": 2}}, Code.REFUSED_POLICY),
        ({"policy": {"max_local_steps": 1}}, Code.REFUSED_POLICY),
        ({"policy": {"max_sample_rate": 0.005}}, Code.REFUSED_POLICY),
        ({"policy": {"min_noise_multiplier": 1.3}}, Code.REFUSED_POLICY),
        ({"member": {"release": []}}, Code.REFUSED_POLICY),
        ({"name": "branches"}, Code.REFUSED_POLICY),
        ({"member": {"epsilon": 2.0}}, Code.REFUSED_BUDGET),
        ({"budget": {"delta": 4e-6}, "member": {"delta": 4e-6}}, Code.REFUSED_BUDGET),
    ]
    for changes, code in tightened:
        with pytest.raises(RefusedError) as caught:
            recheck(plan, approved, make_site(**changes), held)
        assert caught.value.code is code, changes
    with pytest.raises(RefusedError) as caught:
        recheck(plan, replace(approved, decision="pending"), make_site(), held)
    assert caught.value.code is Code.UNKNOWN_PLAN
    budget = replace(held, epsilon=9.0)
    with pytest.raises(RefusedError, match="data set's budget"):
        recheck(plan, approved, make_site(), budget)


def test_admission_reads_no_record(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    """The source of the site file does not exist, and nobody notices."""
    site = make_site()
    assert not Path(site.data.source).exists()
    assert admit(make_plan(), site, NOTHING) == admit(make_plan(), site, NOTHING)


def test_declared_units_are_fixed_by_approval(asked: list[dict[str, Any]]) -> None:
    """An approved plan keeps its rate, whatever the file says later; the file must still hold its own delta rule."""
    plan = make_plan()
    approved = admit(plan, make_site(policy=FIRST_USE), NOTHING)
    held = Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit")
    for units in (20, 500, 10_000):
        recheck(plan, approved, make_site(budget={"declared_units": units}), held)
    assert approved.event is not None
    assert approved.event.sample_rate == 0.01
    again = admit(plan, make_site(budget={"declared_units": 500}), NOTHING)
    assert again.event is not None
    assert again.event.sample_rate == 0.02  # only a new judgement goes by the new number
    with pytest.raises(ValueError, match="declared_units"):
        make_site(budget={"declared_units": 10_001})


def test_a_part_for_training_raises_the_rate(asked: list[dict[str, Any]]) -> None:
    plan = evaluating_plan(train_fraction=0.8)
    admission = admit(plan, make_site(), NOTHING)
    assert admission.event is not None
    assert admission.event.sample_rate == 10 / (1000 * 0.8)
    assert admit(evaluating_plan(train_fraction=0.5, expected_batch=501), make_site(), NOTHING).code is (
        Code.REFUSED_POLICY
    )
    assert admit(evaluating_plan(train_fraction=0.5, expected_batch=500), make_site(), NOTHING).event is not None


ALL = {"release": ["update", "accuracy", "per_class", "confusion"]}


def test_training_and_evaluation_each_have_the_whole_share(asked: list[dict[str, Any]]) -> None:
    plan = evaluating_plan("per_class", every=2)
    admission = admit(plan, make_site(member=ALL), NOTHING)
    assert [(one["sample_rate"], one["steps"], one["epsilon"], one["delta"]) for one in asked] == [
        (10 / 800, 8, 3.0, 5e-6),
        (1.0, 2, 3.0, 5e-6),  # after rounds 2 and 3
    ]
    assert admission.evaluation == EvaluateEvent(noise_multiplier=1.235, release="per_class", unit="unit")
    assert (admission.num_evaluations, admission.horizon, admission.epsilon) == (2, 4, 3.0)


@pytest.mark.parametrize(("floor", "sigma"), [(0.5, 1.235), (3.0, 3.0)])
def test_an_evaluation_is_never_under_the_floor(asked: list[dict[str, Any]], floor: float, sigma: float) -> None:
    site = make_site(policy={"min_noise_multiplier": floor}, member=ALL)
    evaluation = admit(evaluating_plan(), site, NOTHING).evaluation
    assert evaluation is not None
    assert evaluation.noise_multiplier == sigma


@pytest.mark.parametrize("wanted", ["accuracy", "per_class", "confusion"])
def test_a_release_that_the_site_does_not_allow_is_left_out(asked: list[dict[str, Any]], wanted: str) -> None:
    others = [name for name in ALL["release"] if name != wanted]
    admission = admit(evaluating_plan(wanted), make_site(member={"release": others}), NOTHING)
    assert admission.decision == "pending"
    assert admission.event is not None
    assert (admission.evaluation, admission.num_evaluations) == (None, 0)
    assert len(asked) == 1  # no noise is computed for what will not be


def test_a_release_withdrawn_later_stops_evaluations_and_not_training(asked: list[dict[str, Any]]) -> None:
    plan, site = evaluating_plan("confusion"), make_site(policy=FIRST_USE, member=ALL)
    approved = admit(plan, site, NOTHING)
    evaluation = approved.evaluation
    assert evaluation is not None
    held = Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit")
    allow_release(evaluation, site, "wards")
    withdrawn = make_site(member={"release": ["update", "accuracy"]})
    recheck(plan, approved, withdrawn, held)
    quieter = make_site(policy={"min_noise_multiplier": 1.3}, member=ALL)
    for changed in (withdrawn, quieter, make_site(name="branches", member=ALL)):
        with pytest.raises(RefusedError) as caught:
            allow_release(evaluation, changed, "wards")
        assert caught.value.code is Code.REFUSED_POLICY


@pytest.mark.parametrize(
    "change",
    [
        {"method": {"kind": "ffa"}},
        {"training": {"rounds": 4}},
        {"training": {"spare_rounds": 2}},
        {"training": {"local_steps": 3}},
        {"training": {"expected_batch": 11}},
        {"training": {"train_fraction": 0.9}},
        {"task": {"labels": ["calm", "urgent", "other"]}},
        {"model": {"sha256": "b" * 64}},
    ],
)
def test_a_changed_plan_is_another_plan(asked: list[dict[str, Any]], change: dict[str, Any]) -> None:
    """It waits again, whatever was approved before, and gets no more than what that left."""
    first = make_plan()
    other = edit(first, **change)
    assert other.digest != first.digest
    site = make_site(policy=FIRST_USE, member={"plan": first.digest})
    assert admit(first, site, NOTHING).decision == "approved"
    assert admit(other, site, NOTHING).decision == "pending"
    held = Committed(epsilon=3.0, delta=5e-6, federation_epsilon=3.0, federation_delta=5e-6, unit="unit")
    refused = admit(other, site, held)
    assert (refused.decision, refused.code) == ("refused", Code.REFUSED_BUDGET)
    with pytest.raises(RefusedError) as caught:  # nor is it served under the first one's approval
        recheck(other, admit(other, site, NOTHING), site, NOTHING)
    assert caught.value.code is Code.UNKNOWN_PLAN


def test_spare_rounds_are_paid_for_in_advance() -> None:
    site = make_site()
    few, many = (admit(make_plan(spare_rounds=spare), site, NOTHING).event for spare in (0, 12))
    assert few is not None
    assert many is not None
    assert many.noise_multiplier > few.noise_multiplier
    assert composed_epsilon([many] * 15, 5e-6) <= 3.0


def test_federations_share_one_budget(asked: list[dict[str, Any]]) -> None:
    site = several({"wards": (3.0, 4e-6), "labs": (5.0, 6e-6)})
    assert admit(make_plan(), site, NOTHING).epsilon == 3.0
    labs = admit(make_plan(name="labs"), site, replace(NOTHING, epsilon=3.0, delta=4e-6))
    assert labs.epsilon == pytest.approx(5.0, rel=1e-9)
    assert labs.delta == pytest.approx(6e-6, rel=1e-9)
    assert 3.0 + labs.epsilon <= 8.0
    other = admit(make_plan(name="banks"), site, NOTHING)
    assert (other.decision, other.code) == ("refused", Code.REFUSED_POLICY)
    assert "no [federation.banks] table" in other.reason


@pytest.mark.parametrize("shares", [{"a": (4.0, 5e-6), "b": (4.1, 5e-6)}, {"a": (4.0, 5e-6), "b": (4.0, 5.1e-6)}])
def test_shares_beyond_the_budget_are_no_site_file(shares: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="exceed the budget"):
        several(shares)


NAMES = ("a", "b", "c")
fractions = st.floats(0.01, 1.0)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(fractions, min_size=3, max_size=3),
    offers=st.lists(
        st.tuples(st.sampled_from([*NAMES, "stranger"]), st.integers(0, 4), st.booleans(), fractions), max_size=12
    ),
)
def test_no_sequence_of_plans_passes_a_limit(parts: list[float], offers: list[tuple[str, int, bool, float]]) -> None:
    """Approvals in any order over several federations, the operator lowering and raising shares in between."""
    total = math.fsum(parts)
    approved: dict[str, tuple[str, Admission]] = {}

    def sums(name: str) -> Committed:
        mine = [one for federation, one in approved.values() if federation == name]
        every = [one for _, one in approved.values()]
        return Committed(
            epsilon=math.fsum(one.epsilon for one in every),
            delta=math.fsum(one.delta for one in every),
            federation_epsilon=math.fsum(one.epsilon for one in mine),
            federation_delta=math.fsum(one.delta for one in mine),
            unit="unit" if every else None,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "noise_multiplier", lambda **_: 1.0)
        for name, seed, wants, scale in offers:
            shares = {n: (8.0 * scale * p / total, 1e-5 * scale * p / total) for n, p in zip(NAMES, parts, strict=True)}
            site = several(shares, policy=FIRST_USE, member=ALL)
            plan = edit(evaluating_plan("accuracy" if wants else "none", name=name), method={"seed": seed})
            if plan.digest in approved:
                continue
            admission = admit(plan, site, sums(name))
            if admission.decision == "approved":
                approved[plan.digest] = (name, admission)
                after = sums(name)
                allow_budget(name, site, after)  # the ledger's own rule, without tolerance
                share = site.federation[name]
                assert after.federation_epsilon <= share.epsilon
                assert after.federation_delta <= share.delta
                assert after.epsilon <= site.budget.epsilon
                assert after.delta <= site.budget.delta <= 0.1 / site.budget.declared_units
            else:
                assert admission.event is None
    assert "stranger" not in {federation for federation, _ in approved.values()}


@pytest.mark.parametrize(
    ("plan", "member"),
    [
        (make_plan(rounds=20, local_steps=5), {}),
        (evaluating_plan("confusion", rounds=6, every=1), ALL),
        (
            evaluating_plan("accuracy", rounds=40, every=1, train_fraction=0.5, expected_batch=400),
            ALL | {"epsilon": 0.7},
        ),
        (evaluating_plan("per_class", rounds=5, every=10, expected_batch=800), ALL | {"epsilon": 8.0, "delta": 1e-5}),
    ],
)
def test_another_accountant_agrees(plan: Plan, member: dict[str, Any]) -> None:
    """dp-accounting's own composition of what an approval lets happen: either part stays within the share."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    site = make_site(member=member)
    share, admission = site.federation["wards"], admit(plan, site, NOTHING)
    event, evaluation = admission.event, admission.evaluation
    assert event is not None

    def spent(one: Any, times: int) -> float:
        accountant = PLDAccountant(value_discretization_interval=1e-4)
        accountant.compose(dp_accounting.SelfComposedDpEvent(one, times))
        return float(accountant.get_epsilon(share.delta))

    gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
    assert event.sample_rate == event.expected_batch / (1000 * plan.training.train_fraction)
    train = spent(dp_accounting.PoissonSampledDpEvent(event.sample_rate, gaussian), plan.training.horizon * event.steps)
    judge = 0.0
    if evaluation is not None:
        judge = spent(dp_accounting.GaussianDpEvent(evaluation.noise_multiplier), admission.num_evaluations)
        assert judge > 0.9 * share.epsilon  # the noise is no larger than it must be
    assert max(train, judge) <= share.epsilon * (1 + 1e-6) == pytest.approx(admission.epsilon, rel=1e-5)


def test_the_statement_is_of_the_whole_horizon() -> None:
    plan, site = make_plan(), make_site(member={"declared_weight": 120.0})
    approved = make_admission(plan)
    stated, event = statement_for(approved, site, plan), approved.event
    assert event is not None
    assert stated.guarantee
    assert stated.delta == approved.delta
    assert stated.epsilon == composed_epsilon([event] * 4, approved.delta)
    assert (stated.rounds, stated.local_steps, stated.noise_multiplier) == (4, 2, 1.25)
    assert (stated.released, stated.declared_weight) == (("update",), 120.0)
    with pytest.raises(RefusedError) as caught:
        statement_for(replace(approved, decision="refused", code=Code.REFUSED_BUDGET, event=None), site, plan)
    assert caught.value.code is Code.REFUSED_BUDGET


def test_the_statement_is_told_of_evaluations_and_people(monkeypatch: pytest.MonkeyPatch) -> None:
    import privet.common.privacy.statement as module

    told: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(module, "statement", lambda *arguments, **named: told.append((arguments, named)))
    plan = evaluating_plan("per_class", train_fraction=0.8)
    evaluation = EvaluateEvent(noise_multiplier=2.0, release="per_class", unit="record")
    admission = make_admission(plan, evaluation=evaluation, num_evaluations=3, unit="record")
    site = make_site(unit="record", member=ALL)  # says nothing of persons: the approval does
    statement_for(replace(admission, person="patient", max_per_person=5), site, plan)
    statement_for(replace(admission, evaluation=None, num_evaluations=0), make_site(), plan)
    assert [arguments for arguments, _ in told] == [(admission.event, 4, 5e-6)] * 2
    assert told[0][1] == {
        "released": ("update", "per_class"), "declared_weight": None, "evaluation": evaluation, "num_evaluations": 3,
        "train_fraction": 0.8, "max_per_person": 5,
    }  # fmt: skip
    assert told[1][1]["released"] == ("update",)
    assert told[1][1]["max_per_person"] is None


def test_the_rules_in_words_hold_every_limit() -> None:
    policy = {
        "min_noise_multiplier": 0.75, "max_sample_rate": 0.25, "max_rounds": 4321, "max_local_steps": 765,
        "methods": ["head", "ffa"],
    }  # fmt: skip
    text = "\n".join(in_words(make_site(policy=policy, member={"release": ["update", "accuracy"]}), "wards"))
    for words in (
        "epsilon 3, delta 5e-06", "epsilon 8, delta 1e-05", "0.75", "25 %", "4,321", "765", "1,000,000", "head, ffa",
        "update, accuracy", "has not approved;",
    ):  # fmt: skip
        assert words in text, words
    assert "by itself" in "\n".join(in_words(make_site(policy=FIRST_USE), "wards"))
    assert in_words(make_site(), "banks") == [
        "Every plan of federation banks: the site file has no [federation.banks] table."
    ]
