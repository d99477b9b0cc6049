import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privet.common.privacy import TrainEvent

GOOD: dict[str, Any] = {
    "sample_rate": 0.1,
    "noise_multiplier": 1.5,
    "steps": 5,
    "max_grad_norm": 1.0,
    "expected_batch": 32,
    "unit": "unit",
    "max_records": 4,
}


@given(
    rate=st.floats(0, 1, exclude_min=True),
    sigma=st.just(0.0) | st.floats(1e-3, 1e4),
    steps=st.integers(1, 10**6),
    norm=st.floats(1e-3, 1e3),
    unit=st.sampled_from(["unit", "record"]),
)
def test_an_event_survives_json_exactly(rate: float, sigma: float, steps: int, norm: float, unit: Any) -> None:
    event = TrainEvent(
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=steps,
        max_grad_norm=norm,
        expected_batch=3,
        unit=unit,
        max_records=2,
    )
    assert TrainEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0.0},
        {"sample_rate": 1.0000001},
        {"sample_rate": math.nan},
        {"sample_rate": True},
        {"sample_rate": "0.1"},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": 1e-9},
        {"steps": 0},
        {"steps": 5.0},
        {"steps": True},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": math.inf},
        {"expected_batch": 0},
        {"expected_batch": 1.5},
        {"unit": "patient"},
        {"max_records": 0},
        {"surplus": 1},
    ],
)
def test_a_bad_event_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        TrainEvent.from_json(GOOD | change)


@pytest.mark.parametrize("name", GOOD)
def test_every_entry_is_required(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        TrainEvent.from_json({key: value for key, value in GOOD.items() if key != name})
