"""Plans, sites and judgements for the tests of policy and ledger."""

from pathlib import Path
from typing import Any

from privet.client.policy import Admission, Committed
from privet.common.config import Plan, Site
from privet.common.errors import Code
from privet.common.privacy.events import TrainEvent

NOTHING = Committed(epsilon=0.0, delta=0.0, federation_epsilon=0.0, federation_delta=0.0, unit=None)
DATA_ID = "0123456789abcdef" * 2


def make_plan(seed: int = 0, *, name: str = "wards", **training: Any) -> Plan:
    """A plan of 3 rounds and 1 spare one; plans of different seeds have different digests."""
    return Plan.model_validate(
        {
            "format": 1,
            "name": name,
            "task": {"labels": ["calm", "urgent"]},
            "model": {"base": "package:tiny", "sha256": "a" * 64},
            "method": {"kind": "head", "seed": seed},
            "training": {
                "rounds": 3,
                "spare_rounds": 1,
                "local_steps": 2,
                "expected_batch": 10,
                "learning_rate": 0.1,
                **training,
            },
        }
    )


def make_site(
    *,
    name: str = "wards",
    unit: str = "patient",
    budget: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    member: dict[str, Any] | None = None,
) -> Site:
    """A site with epsilon 8 for its data, 3 of it for the one federation."""
    return Site.model_validate(
        {
            "format": 1,
            "name": "north",
            "data": {"id": DATA_ID, "source": Path("notes.csv"), "text": "text", "label": "label", "unit": unit},
            "budget": {"epsilon": 8.0, "delta": 1e-5, "declared_units": 1000, **(budget or {})},
            "policy": policy or {},
            "federation": {
                name: {
                    "address": "localhost:9092",
                    "ca": Path("ca.crt"),
                    "key": Path("site.key"),
                    "epsilon": 3.0,
                    "delta": 5e-6,
                    **(member or {}),
                }
            },
        }
    )


def make_admission(plan: Plan, *, epsilon: float = 3.0, delta: float = 5e-6, **changes: Any) -> Admission:
    """An approval as `admit` would give it, without the calibration."""
    event = {
        "sample_rate": 0.01,
        "noise_multiplier": 1.25,
        "steps": plan.training.local_steps,
        "max_grad_norm": plan.training.max_grad_norm,
        "expected_batch": 10,
        "unit": "unit",
        "max_records": 4,
    }
    event |= {name: changes.pop(name) for name in list(changes) if name in event}
    values = {"decision": "approved", "code": Code.OK, "reason": "test", "horizon": plan.training.horizon}
    return Admission(**{**values, **changes}, event=TrainEvent(**event), epsilon=epsilon, delta=delta)  # type: ignore[arg-type]
