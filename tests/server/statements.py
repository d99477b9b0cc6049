"""Statements and history for the tests of card and report: plausible figures, computed from no data."""

from typing import Any

from privet.common.privacy.statement import Statement


def stated(**changes: Any) -> Statement:
    """One site's statement."""
    values: dict[str, Any] = {
        "guarantee": True,
        "unit": "unit",
        "delta": 1e-5,
        "epsilon": 2.971,
        "epsilon_replace": 5.6012,
        "advantage": 0.41,
        "true_positive_bound": 0.2004,
        "accountant": "dp-accounting 0.6.0, privacy loss distributions",
        "noise_multiplier": 1.234,
        "max_grad_norm": 1.0,
        "sample_rate": 0.064,
        "expected_batch": 64,
        "local_steps": 5,
        "rounds": 40,
        "max_records": 4,
        "released": ("update",),
    }
    return Statement(**(values | changes))


def public(accuracy: float = 0.8125, **changes: Any) -> dict[str, Any]:
    """Public metrics of a round."""
    values: dict[str, Any] = {
        "accuracy": accuracy,
        "macro_f1": accuracy - 0.05,
        "loss": 0.625,
        "num_records": 1600,
        "recall": {"calm": 0.5, "urgent": 0.75, "other": 1.0},
        "confusion": [],
    }
    return values | changes


def round_row(number: int, **changes: Any) -> dict[str, Any]:
    """One event "round" of metrics.jsonl."""
    values: dict[str, Any] = {
        "event": "round",
        "round": number,
        "seconds": 2.0,
        "cohort": ["north", "south"],
        "answered": ["north", "south"],
        "missing": [],
        "failed": {},
        "aggregated": True,
        "bytes_down": 3000,
        "bytes_up": 2000,
        "public": public(0.5 + number / 100),
    }
    return values | changes
