"""A site of tagged texts: whatever is wrong with a text, a server hears the same, and no other counts otherwise."""

from pathlib import Path

import numpy as np
import pytest

from privet.client.evaluation import exact_cells
from privet.client.trainer import clipped_sum
from privet.common.config import Plan
from privet.common.errors import Code
from tests.client.agent_bench import story
from tests.client.token_cases import TEXTS, TYPES, tags_of, token_plan
from tests.client.trainer_cases import Everyone, event_of, hostile

_NAMES = ("O", *(f"{place}-{name}" for name in TYPES for place in "BI"))
ROWS = [
    (text, " ".join(_NAMES[tag] for tag in tags_of(text)), f"p{number}{turn}")
    for turn in "ab"
    for number, text in enumerate(TEXTS)
]
FAULTS = [
    ("a fever", "O"),
    ("a fever", "O B-sign O"),
    ("a fever", "O B-nothing"),
    ("a fever", "O nonsense"),
    ("a fever", "0 1"),
    ("a fever", ""),
    ("", "O"),
    ("\u200b", "B-sign"),
    ("fever " * 4000, "B-sign " * 4000),
    ("fever" * 4000, "B-sign"),
    ("¡ﷺ" * 30, "I-card"),
]
RELEASED = ("update", "per_class")
ADDED = [(*row, f"q{number}") for number, row in enumerate(FAULTS)]


def _plan(base: Path, method: str) -> Plan:
    return token_plan(
        base,
        method=method,
        training={"rounds": 4, "local_steps": 2, "expected_batch": 20, "train_fraction": 0.6},
        evaluation={"release": "per_class", "every": 1},
    )


@pytest.mark.parametrize("method", ["head", "ffa", "fedavg"])
def test_faulty_texts_change_no_code_no_shape_and_no_mate(base: Path, tmp_path: Path, method: str) -> None:
    plan = _plan(base, method)
    without, alone = story(tmp_path / "without", plan, base, ROWS, RELEASED)
    with_them, among = story(tmp_path / "with", plan, base, ROWS + ADDED, RELEASED)
    assert [code for code, _ in without] == [Code.OK] * 5
    assert without[2][1] == {"counts": (3 * len(TYPES),)}
    assert with_them == without
    engines = [hostile(prepared.trainer) for prepared in (alone, among)]
    ours = np.arange(alone.train.units.num_units)
    found = [
        clipped_sum(engine, prepared.train, ours, event_of(), Everyone(0))
        for engine, prepared in zip(engines, (alone, among), strict=True)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.linalg.norm(found[0]) > 0.5
    arrays = alone.trainer.classifier.read()
    tables = [each.trainer.logits(arrays, each.validation) for each in (alone, among)]
    np.testing.assert_array_equal(tables[1][: len(tables[0])], tables[0])
    cells = [exact_cells(each.trainer, arrays, each.validation, "per_class") for each in (alone, among)]
    more = among.validation.units.num_units - alone.validation.units.num_units
    assert np.linalg.norm(cells[1] - cells[0]) <= more
    assert np.isfinite(cells[1]).all()
