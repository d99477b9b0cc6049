"""For the tests of a site: the trainers that what holds of one must hold of all."""

from pathlib import Path

import pytest

from privet.client.training import RoundTrainer
from tests.client.trainer_cases import plan_of


@pytest.fixture(scope="module", params=["ffa", "fedavg", "cls-fedavg"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    kind = request.param
    pooling = "cls" if kind.startswith("cls") else "mean"
    method = kind.removeprefix("cls-")
    return RoundTrainer(plan_of(base, method=method, pooling=pooling), base)
