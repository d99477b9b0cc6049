"""Admission: every rule refuses, the share is what is left, and the noise covers the whole horizon."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client.policy import Committed, admit, allow_budget, describe, recheck, statement_for
from privet.common.errors import Code, InputError, RefusedError
from privet.common.privacy import calibration
from privet.common.privacy.accountant import epsilon as composed_epsilon
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
    import math

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
    assert not site.data.source.exists()
    assert admit(make_plan(), site, NOTHING) == admit(make_plan(), site, NOTHING)


def test_the_words_name_everything_that_leaves_and_costs() -> None:
    plan = make_plan()
    pending = make_admission(plan, decision="pending", code=Code.PENDING, reason="It waits.")
    site = make_site(member={"declared_weight": 120.0})
    text = "\n".join(describe(plan, pending, site, 12_345))
    for words in (
        plan.digest, "wards", "'calm', 'urgent'", "package:tiny", "head", "3 rounds and 1 spare", "2 local steps",
        "10 units", "12,345 bytes", "privacy statement", "declared weight: 120", "status code", "epsilon 3",
        "delta 5e-06", "noise multiplier 1.25", "sampling rate 0.01", f"privet approve SITE.toml {plan.digest}",
    ):  # fmt: skip
        assert words in text, words
    assert "privet approve" not in "\n".join(describe(plan, make_admission(plan), site, None))
    refusal = replace(pending, decision="refused", event=None)
    assert describe(plan, refusal, make_site(name="branches"), None)[-1].startswith("Nothing leaves")
    assert describe(plan, make_admission(plan), make_site(name="branches"), None)


def test_the_words_cannot_steer_a_terminal() -> None:
    raw = make_plan().model_dump(mode="json")
    raw["task"]["labels"] = ["calm", "\x1b[2J\u202eurgent\n"]
    raw["model"]["base"] = "\x1b]0;owned\x07"
    plan = type(make_plan()).model_validate(raw)
    for line in describe(plan, make_admission(plan), make_site(), None):
        assert line.isprintable()


def test_the_statement_is_of_the_whole_horizon() -> None:
    approved, site = make_admission(make_plan()), make_site(member={"declared_weight": 120.0})
    stated, event = statement_for(approved, site), approved.event
    assert event is not None
    assert stated.guarantee
    assert stated.delta == approved.delta
    assert stated.epsilon == composed_epsilon([event] * 4, approved.delta)
    assert (stated.rounds, stated.local_steps, stated.noise_multiplier) == (4, 2, 1.25)
    assert (stated.released, stated.declared_weight) == (("update",), 120.0)
    with pytest.raises(RefusedError) as caught:
        statement_for(replace(approved, decision="refused", code=Code.REFUSED_BUDGET, event=None), site)
    assert caught.value.code is Code.REFUSED_BUDGET
