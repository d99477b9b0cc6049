"""Small simulations compute in this process unless a test asks for workers: each would import torch anew."""

from typing import Any

import pytest

import privet.simulations.run
from privet.simulations.engines import open_engine


@pytest.fixture(autouse=True, scope="session")
def _no_workers_unless_asked_for() -> Any:
    def opened(name: Any, workers: int | None = None, ray_address: str | None = None) -> Any:
        return open_engine(name, 0 if workers is None and name == "local" else workers, ray_address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privet.simulations.run, "open_engine", opened)
        yield
