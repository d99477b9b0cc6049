"""Plans of tagged texts: what is refused, and what their digest holds."""

from typing import Any

import pytest
from pydantic import ValidationError

from privet.common.config import Plan
from privet.common.tasks.base import record_width, task_of

BASE = {"format": 1, "name": "tiny"}
TRAINING = {"rounds": 2, "expected_batch": 4, "learning_rate": 0.1}


def _plan(task: dict[str, Any], pooling: str = "none", **tables: Any) -> Plan:
    raw: dict[str, Any] = {
        "task": {"kind": "tokens", "labels": ["Disease"], **task},
        "model": {"base": "x", "sha256": "0" * 64, "pooling": pooling},
        "training": TRAINING | tables.pop("training", {}),
    }
    return Plan.model_validate(BASE | raw | tables)


def test_one_type_gives_three_tags() -> None:
    task = task_of(_plan({}).task)
    assert task.output_names == ("O", "B-Disease", "I-Disease")
    assert task.num_outputs == 3
    assert task.per_token
    assert record_width(task) == 4


@pytest.mark.parametrize(
    ("task", "further", "match"),
    [
        ({}, {"pooling": "mean"}, "pooling"),
        ({}, {"pooling": "cls"}, "pooling"),
        ({"kind": "classification", "labels": ["a", "b"]}, {}, "pooling"),
        ({"labels": []}, {}, "label"),
        ({"label_smoothing": 0.1}, {}, "label_smoothing"),
        ({"entity_bound": 0.0}, {}, "entity_bound"),
        ({"kind": "classification", "labels": ["a", "b"], "entity_bound": 2.0}, {"pooling": "mean"}, "entity_bound"),
        ({}, {"evaluation": {"release": "confusion"}, "training": {"train_fraction": 0.8}}, "release"),
    ],
)
def test_what_is_refused(task: dict[str, Any], further: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        _plan(task, **further)


def test_the_bound_is_in_the_digest_where_it_is_set() -> None:
    plain, same, other = _plan({}), _plan({"entity_bound": 4.0}), _plan({"entity_bound": 2.0})
    assert plain.digest == same.digest != other.digest
    assert "entity_bound" not in plain.canonical()


def test_the_tag_outside_is_no_type() -> None:
    with pytest.raises(ValidationError, match="other words"):
        _plan({"labels": ["O", "Disease"]})
