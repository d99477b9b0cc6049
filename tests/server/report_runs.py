"""Run folders for the tests of the report: made of invented events, never run."""

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from privet.common.config import Plan
from privet.common.privacy.statement import Statement
from privet.server.report.rows import Row
from tests.server.statements import round_row, stated


def plan_of(**changes: Any) -> Plan:
    """A plan of three labels."""
    raw: dict[str, Any] = {
        "format": 1,
        "name": "clinic-notes",
        "task": {"labels": ["calm", "urgent", "other"]},
        "model": {"base": "example/tiny", "sha256": "a" * 64},
        "training": {"rounds": 40, "expected_batch": 64, "learning_rate": 0.01},
    }
    return Plan.model_validate(raw | changes)


def rows(*raw: dict[str, Any]) -> tuple[Row, ...]:
    """Events "round" as the report reads them."""
    return tuple(Row.model_validate(json.loads(json.dumps(row))) for row in raw)


def write_folder(
    folder: Path,
    events: Iterable[dict[str, Any]],
    *,
    plan: Plan | None = None,
    statements: dict[str, Statement] | None = None,
    reason: str = "",
) -> Path:
    """A run folder of these events."""
    from privet.server.export import plan_toml

    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(plan_toml(plan or plan_of()), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    if statements is not None:
        (folder / "adapter").mkdir()
        sites = {name: statement.to_json() for name, statement in statements.items()}
        document = {"guarantee": not reason, "reason": reason, "sites": sites}
        (folder / "adapter" / "privacy.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def crowd(
    num_sites: int, num_rounds: int, *, budgets: Sequence[float] = (1.0,), fraction: float = 0.05, spread: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Statement]]:
    """Events and statements of many sites: each of its own noise, a part of them asked in each round."""
    chance = random.Random(7)
    names = [f"site-{i:05d}" for i in range(num_sites)]
    events: list[dict[str, Any]] = [{"event": "started", "simulated": True, "rounds": num_rounds}]
    for number in range(1, num_rounds + 1):
        cohort = sorted(chance.sample(names, max(1, int(fraction * num_sites))))
        silent = {name for name in cohort if chance.random() < 0.03}
        broken = {name for name in cohort if name not in silent and chance.random() < 0.02}
        mean = 0.85 - 0.6 * 0.9**number
        changes: dict[str, Any] = {
            "cohort": cohort,
            "answered": [name for name in cohort if name not in silent | broken],
            "missing": sorted(silent),
            "failed": dict.fromkeys(sorted(broken), "unavailable"),
            "seconds": round(3 + chance.random(), 3),
            "bytes_down": 4000 * len(cohort),
            "bytes_up": 4000 * (len(cohort) - len(silent)),
            "simulated": True,
        }
        if spread and (number % 5 == 0 or number == num_rounds):
            changes["spread"] = {"sites": {n: min(1.0, max(0.0, chance.gauss(mean, 0.08))) for n in names}}
        row = round_row(number, **changes)
        row["public"] = row["public"] | {"accuracy": mean, "macro_f1": mean - 0.03, "loss": 2 - mean}
        events.append(row)
    statements = {}
    for i, name in enumerate(names):
        epsilon = budgets[i % len(budgets)] * (0.9 + 0.1 * chance.random())
        statements[name] = stated(
            guarantee=False,
            reason="A simulation.",
            epsilon=epsilon,
            epsilon_replace=2 * epsilon,
            noise_multiplier=round(0.6 + 8 / (1 + epsilon), 3),
            sample_rate=round(0.05 + 0.1 * chance.random(), 4),
        )
    return events, statements
