"""A site that only evaluates: all its units judge, none ever trains, and it is charged for evaluations alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.audit import audit_path
from privet.client.describe import asked, costs, describe
from privet.client.flows import flows
from privet.client.ledger import Ledger
from privet.client.policy import Admission, admit, recheck, statement_for
from privet.common.audit_log import read
from privet.common.audit_log.entries import Approved
from privet.common.config import Plan, Site
from privet.common.errors import Code, RefusedError
from privet.common.messages import COUNTS
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.consistency import consistent
from privet.common.privacy.statement import Statement
from tests.client.agent_bench import Bench, site_of
from tests.client.test_agent_metrics import ROWS
from tests.tiny_models import tiny_plan

JUDGES: dict[str, Any] = {"federation__tiny__release": ("per_class",), "federation__tiny__evaluate_only": True}


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    training = {"rounds": 3, "local_steps": 1, "expected_batch": 5, "train_fraction": 0.6}
    return tiny_plan(base, training=training, evaluation={"release": "per_class", "every": 2})


@pytest.fixture
def bench(tmp_path: Path, plan: Plan, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, plan, base, rows=ROWS, **JUDGES)
    yield made
    made.close()


def _admission(bench: Bench) -> Admission:
    row = bench.ledger.plan(bench.plan.digest)
    assert row is not None
    return row.admission


def test_every_unit_judges_and_none_trains(bench: Bench) -> None:
    assert bench.offer().code is Code.OK
    assert bench.evaluate(1).code is Code.OK
    prepared = bench.agent._prepared
    assert prepared is not None
    assert prepared.train.units.num_units == 0
    assert len(prepared.train.labels) == 0
    assert prepared.validation.units.num_units == len({unit for _, _, unit in ROWS})


def test_no_round_is_trained_whoever_asks_and_nothing_is_spent_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.offer()
    assert bench.agent._prepared is not None

    def never(*_: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(bench.agent._prepared.trainer, "update", never)
    for number in (1, 2, 3, 4):
        reply = bench.train(number)
        assert reply.code is Code.OUTSIDE_HORIZON
        assert not reply.arrays
        assert reply.coded is None
    assert not bench.ledger.events()
    with pytest.raises(RefusedError, match="horizon is 0"):  # the ledger holds it too, whatever asks
        bench.ledger.reserve(bench.plan.digest, 1, "train", "ab" * 32)
    assert [bench.evaluate(number, number).code for number in (1, 2, 3)] == [Code.OK, Code.OK, Code.OUTSIDE_HORIZON]
    assert [event.kind for event in bench.ledger.events()] == ["evaluate"] * 2
    assert bench.ledger.verify()
    bench.restart()  # what was approved stays so
    assert _admission(bench).evaluate_only
    assert bench.train(1).code is Code.OUTSIDE_HORIZON


def test_its_share_buys_evaluations_alone(bench: Bench) -> None:
    """The noise is that of two Gaussian releases under the whole share; of training nothing is in it."""
    statement = bench.offer().body.statement
    assert statement is not None
    admission = _admission(bench)
    event = admission.evaluation
    assert event is not None
    assert admission.training_rounds == 0
    share = bench.site.federation["tiny"]
    exact = epsilon([event] * 2, share.delta)
    assert 0.98 * share.epsilon < exact <= share.epsilon
    assert statement.epsilon == pytest.approx(exact, rel=1e-3)
    assert (statement.rounds, statement.train_fraction, statement.released) == (0, 0.0, ("per_class",))
    assert statement.expected_batch / statement.sample_rate == bench.site.budget.declared_units
    assert consistent(statement, bench.plan) is None
    text, rows = " ".join(statement.in_words()), dict(statement.table())
    assert "This site only evaluates: none of its units was ever trained on, and no update left it." in text
    assert "steps" not in text
    assert rows["training"] == "none: this site only evaluates"
    assert "noise multiplier, training" not in rows
    assert Statement.from_json(statement.to_json()) == statement


def test_the_counts_are_of_all_units(bench: Bench) -> None:
    """All labels' cells together are near the number of units: as they are for nobody who keeps some to train on."""
    bench.offer()
    reply = bench.evaluate(1)
    event = _admission(bench).evaluation
    assert event is not None
    total = float(np.sum(reply.arrays[COUNTS]))
    assert abs(total - 60) < 6 * event.noise_multiplier * np.sqrt(6)
    assert event.noise_multiplier < 2


def test_a_statement_that_claims_less_than_its_evaluations_cost_is_refused(bench: Bench) -> None:
    statement = bench.offer().body.statement
    assert statement is not None
    lower = {"epsilon": 0.5, "epsilon_replace": 0.6}
    assert consistent(statement.model_copy(update=lower), bench.plan) is not None
    for change in ({"rounds": 3}, {"train_fraction": 0.6}, {"released": ("update", "per_class")}, {"evaluation": None}):
        raw = statement.to_json() | change
        try:
            changed = Statement.from_json(raw)
        except ValueError:
            continue
        assert consistent(changed, bench.plan) is not None, change


@pytest.mark.parametrize("first", [True, False])
def test_its_part_does_not_change_under_an_approved_plan(tmp_path: Path, plan: Plan, base: Path, first: bool) -> None:
    """Else a unit could be measured in one half of the plan and trained on in the other."""
    given = JUDGES if first else {"federation__tiny__release": ("update", "per_class")}
    bench = Bench(tmp_path, plan, base, rows=ROWS, **given)
    bench.offer()
    assert bench.evaluate(1).code is Code.OK
    now = {"evaluate_only": not first, "release": ("update", "per_class") if first else ("per_class",)}
    membership = bench.site.federation["tiny"].model_copy(update=now)
    bench.site = bench.site.model_copy(update={"federation": {"tiny": membership}})
    bench.agent = bench.fresh()
    assert bench.offer().code is Code.REFUSED_POLICY
    assert bench.train(1).code is not Code.OK
    assert bench.evaluate(2).code is not Code.OK
    assert len(bench.ledger.events()) == 1
    bench.close()


def test_a_plan_without_its_metric_is_refused(tmp_path: Path, plan: Plan, base: Path) -> None:
    site, committed = site_of(tmp_path, ROWS, **JUDGES), _nothing()
    assert admit(plan, site, committed).decision == "approved"
    for evaluation in ({"release": "none"}, {"release": "accuracy"}):
        other = tiny_plan(base, training={"train_fraction": 0.6}, evaluation=evaluation)
        refused = admit(other, site, committed)
        assert refused.code is Code.REFUSED_POLICY
        assert "only evaluates" in refused.reason
        assert refused.event is None


def _nothing() -> Any:
    from privet.client.policy import Committed

    return Committed(epsilon=0, delta=0, federation_epsilon=0, federation_delta=0, unit=None)


@pytest.mark.parametrize("release", [("update",), ("update", "per_class"), ()])
def test_a_site_file_that_releases_updates_is_refused(tmp_path: Path, release: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="only evaluates"):
        site_of(tmp_path, federation__tiny__evaluate_only=True, federation__tiny__release=release)


def test_the_operator_reads_that_nothing_is_trained(tmp_path: Path, plan: Plan) -> None:
    site: Site = site_of(tmp_path, ROWS, **JUDGES)
    admission = admit(plan, site, _nothing())
    text = "\n".join(describe(plan, admission, site, update_bytes=99, known=None))
    assert "the whole horizon of 2 evaluations, from approval on" in text
    assert "all of its declared 50 units judge, none is ever trained on" in "\n".join(asked(plan, admission, site))
    assert "training: none" in costs(plan, admission, site)
    assert next(flow.name for flow in flows(plan, admission, site, update_bytes=99)) == "the evaluation counts"
    assert "over about 50 validation units" in text
    assert "on all of its units" in text
    assert "not trained on" not in text
    assert statement_for(admission, site, plan).rounds == 0
    recheck(plan, admission, site, _nothing())


def test_the_audit_log_says_that_no_round_was_approved(bench: Bench) -> None:
    bench.offer()
    (entry,) = [line.entry() for line in read(audit_path(bench.path)).lines if line.entry().kind == "approved"]
    assert isinstance(entry, Approved)
    assert (entry.rounds, entry.evaluations) == (0, 2)


def test_a_ledger_that_fell_behind_charges_no_round_of_it(bench: Bench) -> None:
    """What it may have forgotten are evaluations."""
    bench.offer()
    old = bench.path.read_bytes()
    assert bench.evaluate(1).code is Code.OK
    bench.ledger.close()
    bench.path.write_bytes(old)
    with Ledger.open(bench.path, agent=True) as ledger:
        assert ledger.behind()
        ledger.charge_all()
        assert {event.kind for event in ledger.events()} <= {"evaluate"}
    bench.ledger = Ledger.open(bench.path, agent=True)
