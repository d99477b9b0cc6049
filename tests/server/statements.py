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


def at_sites(accuracy: float | None = 0.75, **changes: Any) -> dict[str, Any]:
    """The two entries of a round's event that its evaluation at the sites adds: pooled metrics, and who answered."""
    known = accuracy is not None
    metrics: dict[str, Any] = {
        "release": "per_class",
        "accuracy": accuracy,
        "error": 0.05 if known else None,
        "noise_error": 0.04 if known else None,
        "sampling_error": 0.03 if known else None,
        "noise_share": 0.64 if known else None,
        "num_units": 210.4,
        "num_units_error": 12.6,
        "recall": {
            "calm": {"value": 0.625, "noise_error": 0.06, "sampling_error": 0.08, "error": 0.1},
            "urgent": None,
        },
        "confusion": None,
    }
    evaluation = {"number": 1, "answered": ["north", "south"], "missing": [], "failed": {}}
    return {"sites": metrics, "evaluation": evaluation | changes}


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
