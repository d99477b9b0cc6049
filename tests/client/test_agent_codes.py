"""No record decides a code or a shape: one that the model fails on is as if it said nothing, and nobody hears of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privet.client.evaluation import exact_cells
from privet.client.preparation import Prepared
from privet.client.trainer import clipped_sum
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.errors import Code, ModelError
from tests.client.agent_bench import story
from tests.client.trainer_cases import Everyone, event_of, hostile
from tests.tiny_models import tiny_base, tiny_plan

ROWS = [(f"the patient has a cough {n}", ("calm", "urgent", "other")[n % 3], f"p{n}") for n in range(20)]
FATAL = "rash rash rash"  # three equal ids in a row, as no rehearsal has but that of the last id
ADDED = [(f"a {FATAL} {n}", "calm", f"q{n}") for n in range(8)]  # some are trained on, some judged on
RELEASED = ("update", "confusion")


@pytest.fixture(autouse=True)
def failing(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    """The model raises, once it has read the whole batch, wherever the fatal words are in it."""
    from transformers import BertModel

    word = RoundTrainer(_plan(base, "head"), base).tokenizer.convert_tokens_to_ids("rash")
    genuine: Any = BertModel.forward
    raised: list[type[BaseException]] = [RuntimeError]

    def forward(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        out = genuine(self, input_ids, *args, **kwargs)
        same = input_ids == word
        if (same[:, :-2] & same[:, 1:-1] & same[:, 2:]).any():
            raise raised[0]("index out of range")
        return out

    monkeypatch.setattr(BertModel, "forward", forward)
    return raised


def _plan(base: Path, method: str, pooling: str = "mean") -> Plan:
    return tiny_plan(
        base,
        method={"kind": method},
        model={"pooling": pooling},
        task={"max_length": 32, "buckets": [16, 32]},
        training={"rounds": 4, "local_steps": 2, "expected_batch": 20, "train_fraction": 0.6},
        evaluation={"release": "confusion", "every": 1},
    )


def _contributions(prepared: Prepared) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The clipped sum over the training units, and the un-noised cells of the validation units."""
    engine = hostile(prepared.trainer)
    drawn = np.arange(prepared.train.units.num_units)
    total = clipped_sum(engine, prepared.train, drawn, event_of(), Everyone(0))
    arrays = prepared.trainer.classifier.read()
    return total, exact_cells(prepared.trainer, arrays, prepared.validation, "confusion")


CASES = [
    ("head", "mean", RuntimeError),
    ("head", "cls", RuntimeError),
    ("ffa", "mean", RuntimeError),
    ("ffa", "mean", MemoryError),
    ("fedavg", "cls", IndexError),
]


@pytest.mark.parametrize(("method", "pooling", "error"), CASES)
def test_a_record_that_the_model_fails_on_changes_no_code_no_shape_and_no_mate(
    base: Path,
    tmp_path: Path,
    failing: list[type[BaseException]],
    method: str,
    pooling: str,
    error: type[BaseException],
) -> None:
    failing[0] = error
    plan = _plan(base, method, pooling)
    without, alone = story(tmp_path / "without", plan, base, ROWS, RELEASED)
    with_it, among = story(tmp_path / "with", plan, base, ROWS + ADDED, RELEASED)
    assert [code for code, _ in without] == [Code.OK] * 5
    assert with_it == without
    for part, more in ((alone.train, among.train), (alone.validation, among.validation)):
        assert part.units.num_units < more.units.num_units  # some of the added units are in each
    (gradient, cells), (same_gradient, same_cells) = _contributions(alone), _contributions(among)
    np.testing.assert_allclose(same_gradient, gradient, rtol=0, atol=1e-12)  # order of float64 sums
    assert np.linalg.norm(gradient) > 0.5
    assert same_cells.tolist() == cells.tolist()
    assert cells.sum() > 0


@pytest.mark.parametrize("method", ["head", "ffa"])
def test_an_operators_interrupt_passes(
    base: Path, tmp_path: Path, failing: list[type[BaseException]], method: str
) -> None:
    failing[0] = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        story(tmp_path / "site", _plan(base, method), base, ROWS + ADDED, RELEASED)


@pytest.mark.parametrize("method", ["head", "ffa"])
def test_a_model_that_fails_at_every_text_is_noticed_before_any_record(
    base: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """So are dummies: which batches have one depends on records."""
    from transformers import BertModel

    genuine: Any = BertModel.forward
    last = RoundTrainer(_plan(base, method), base).classifier.vocabulary - 1
    for fatal in ({0}, {last}, set(range(1, last))):

        def forward(self: Any, input_ids: Any, *args: Any, fatal: set[int] = fatal, **kwargs: Any) -> Any:
            if any(set(row.tolist()) <= fatal for row in input_ids):
                raise RuntimeError("at the rehearsal")
            return genuine(self, input_ids, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(BertModel, "forward", forward)
            with pytest.raises(RuntimeError, match="at the rehearsal"):
                RoundTrainer(_plan(base, method), base)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_positions_that_a_base_counts_from_its_padding_are_counted_with(tmp_path: Path, pooling: str) -> None:
    import json

    folder = tiny_base(tmp_path / "base", "roberta")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 60}))
    for longest, fits in ((69, True), (70, False)):
        plan = tiny_plan(
            folder,
            method={"kind": "head"},
            model={"pooling": pooling},
            task={"max_length": longest, "buckets": [16, longest]},
        )
        if fits:
            RoundTrainer(plan, folder)
        else:
            with pytest.raises(ModelError, match="exceeds the base's 69 positions"):
                RoundTrainer(plan, folder)
