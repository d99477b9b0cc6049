"""The epsilon that a site claims, against what it is seen to do: every draw and every noise of three plans in a row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import trainer
from privet.common.errors import Code
from privet.common.privacy import noise
from privet.common.privacy.noise import SecureNoise
from tests.client.agent_bench import Bench
from tests.tiny_models import tiny_base, tiny_plan

DELTA = 3e-6
TRAININGS: tuple[dict[str, Any], ...] = (
    {"rounds": 3, "local_steps": 2, "expected_batch": 5},
    {"rounds": 2, "local_steps": 5, "expected_batch": 10, "max_grad_norm": 0.3},
    {"rounds": 4, "local_steps": 1, "expected_batch": 25},
)


@pytest.mark.parametrize("unit", ["patient", "record"])
def test_the_claim_is_what_is_done(tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates and noise as they pass the trainer, composed by dp-accounting and Opacus, which know nothing of plans."""
    steps: list[tuple[float, float]] = []
    genuine_mask, genuine_privatise = SecureNoise.mask, noise.privatise

    def mask(self: SecureNoise, n: int, rate: float) -> Any:
        steps.append((rate, float("nan")))
        return genuine_mask(self, n, rate)

    def privatise(total: np.ndarray, **given: Any) -> Any:
        released = genuine_privatise(total, **given)
        rate, _ = steps.pop()
        steps.append((rate, given["noise_multiplier"]))
        return released

    monkeypatch.setattr(SecureNoise, "mask", mask)
    monkeypatch.setattr(trainer, "privatise", privatise)
    base, executed, reserved = tiny_base(tmp_path / "base"), list[tuple[float, float]](), 0.0
    bench = Bench(tmp_path, tiny_plan(base), base, data__unit=unit)
    for number, training in enumerate(TRAININGS):
        plan, share = tiny_plan(base, training=training), 1.0 + number
        reserved += share
        grant(bench, reserved)
        bench.plan = plan
        statement = bench.offer().body.statement
        assert statement is not None
        assert statement.unit == ("record" if unit == "record" else "unit")
        steps.clear()
        for round in range(1, plan.training.horizon + 1):
            assert bench.train(round).code is Code.OK
        assert len(steps) == plan.training.horizon * plan.training.local_steps
        added, replaced, _ = independent(steps, statement.delta)
        assert statement.epsilon == pytest.approx(added, rel=1e-3)
        assert statement.epsilon_replace == pytest.approx(replaced, rel=1e-3)
        assert (statement.epsilon or np.inf) <= share
        executed += steps
        added, _, prv = independent(executed, bench.site.budget.delta)
        spent = bench.ledger.summary(bench.site).spent_epsilon
        print(f"{unit}, {number + 1} plans: claimed / PLD {spent / added:.4f}, claimed / PRV {spent / prv:.4f}")
        assert spent == pytest.approx(added, rel=1e-3)
        assert spent == pytest.approx(prv, rel=0.02)
        assert spent < reserved
    bench.close()


def grant(bench: Bench, epsilon: float) -> None:
    """The operator raises the federation's share: the next plan gets what the former ones leave."""
    number = round(epsilon)
    budget = bench.site.budget.model_copy(update={"epsilon": 20.0, "delta": 1e-4})
    membership = bench.site.federation["tiny"].model_copy(update={"epsilon": epsilon, "delta": number * DELTA})
    bench.site = bench.site.model_copy(update={"budget": budget, "federation": {"tiny": membership}})
    bench.agent = bench.fresh()


def independent(steps: list[tuple[float, float]], delta: float) -> tuple[float, float, float]:
    """Epsilon for add or remove and for replace by dp-accounting's own accountant, and by Opacus' PRV accountant."""
    import warnings
    from collections import Counter

    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    found = []
    for relation in (dp.NeighboringRelation.ADD_OR_REMOVE_ONE, dp.NeighboringRelation.REPLACE_ONE):
        accountant = PLDAccountant(relation, value_discretization_interval=1e-3)
        for (rate, sigma), count in Counter(steps).items():
            accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), count)
        found.append(float(accountant.get_epsilon(delta)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(sigma, rate, count) for (rate, sigma), count in Counter(steps).items()]
        return found[0], found[1], float(prv.get_epsilon(delta))
