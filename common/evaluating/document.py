"""An evaluation as a JSON document."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

from privet.common.evaluating.asked import Evaluation
from privet.common.evaluating.intervals import NUM_RESAMPLES
from privet.common.evaluating.words import NOT_COVERED, calibration_words, group_words, left_words


def document(found: Evaluation) -> dict[str, Any]:
    """Of JSON's types; no text, and no path but the file's own."""
    asked, scores, calibration = found.asked, found.scores, found.calibration
    return {
        "format": 1,
        "plan": {"name": found.plan.name, "digest": found.plan.digest, "task": found.plan.task.kind},
        "file": {
            "source": str(asked.source),
            "text": asked.text,
            "label": asked.label,
            "unit": asked.unit,
            "by": asked.by,
        },
        "private": NOT_COVERED,
        "num_records": found.num_records,
        "num_units": found.num_units,
        "confidence": asked.confidence,
        "resamples": NUM_RESAMPLES,
        "seed": asked.seed,
        "metrics": {
            found.accuracy_name.lower().replace(" ", "_"): plain(scores.accuracy),
            "macro_f1": plain(scores.macro_f1),
            "micro_f1": plain(scores.micro_f1),
        }
        | (
            {"micro_precision": plain(scores.micro_precision), "micro_recall": plain(scores.micro_recall)}
            if calibration is None
            else {
                "log_loss": plain(calibration.log_loss),
                "brier": plain(calibration.brier),
                "expected_calibration_error": plain(calibration.expected_error),
            }
        ),
        "labels": plain(scores.labels),
        "calibration": None
        if calibration is None
        else plain(calibration)
        | {"expected_error_by_label": found.label_errors or None, "words": calibration_words(calibration)},
        "confusion": None if found.confusion is None else {"labels": list(found.labels), "counts": found.confusion},
        "groups": None
        if found.comparison is None
        else plain(found.comparison)
        | {"words": group_words(found.comparison, found.accuracy_name, by_label=found.calibration is not None)},
        "left_out": plain(found.left) | {"words": left_words(found)},
    }


def plain(value: Any) -> Any:
    """Dataclasses as objects, numbers that are not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
