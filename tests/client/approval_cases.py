"""Plans that ask for metrics, and sites of several federations: for the tests of admission and of its words."""

from typing import Any

from privet.common.config import Plan, Site
from tests.client.ledger_cases import make_plan, make_site


def edit(plan: Plan, **tables: Any) -> Plan:
    """The plan with keys of its tables replaced."""
    raw = plan.model_dump(mode="json")
    for name, value in tables.items():
        raw[name] = raw[name] | value if isinstance(value, dict) else value
    return Plan.model_validate(raw)


def evaluating_plan(
    release: str = "accuracy", *, every: int = 1, train_fraction: float = 0.8, name: str = "wards", **training: Any
) -> Plan:
    """A plan of 3 rounds and 1 spare one that asks for metrics after every `every` rounds."""
    return edit(
        make_plan(name=name, **training),
        training={"train_fraction": train_fraction},
        evaluation={"release": release, "every": every},
    )


def several(shares: dict[str, tuple[float, float]], **changes: Any) -> Site:
    """A site of budget (8, 1e-5) whose federations have these shares (epsilon, delta)."""
    raw = make_site(**changes).model_dump()
    (member,) = raw["federation"].values()
    raw["federation"] = {
        name: member | {"epsilon": epsilon, "delta": delta} for name, (epsilon, delta) in shares.items()
    }
    return Site.model_validate(raw)
