"""A BERT in two parts: equal to the whole to the last bit, kept in memory within bounds, and no bit of a mate in it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privet.client.training import RoundTrainer
from privet.common.batch import Batch
from privet.common.frozen import freeze
from privet.common.model import Classifier, build_classifier
from privet.common.precision import Precision
from privet.common.prefix import CACHE_BYTES, PrefixExamples, Resumable, cache_bytes, lower, splits
from tests.client.trainer_cases import LABELS, TEXTS, UNITS, event_of, hostile
from tests.tiny_models import tiny_base, tiny_plan

LENGTH, WIDTH = 16, 32
ROW_BYTES = 4 * LENGTH * WIDTH


class Texts:
    texts, labels, units, num_units = TEXTS, LABELS, UNITS, 5


def _plan(base: Path, *, first: int = 1, pooling: str = "mean", method: str = "fedavg") -> Any:
    return tiny_plan(
        base,
        lora={"first_layer": first},
        model={"pooling": pooling},
        method={"kind": method},
        task={"max_length": LENGTH, "buckets": [LENGTH]},
    )


def _classifier(base: Path, precision: Precision = "float32", **plan: Any) -> Classifier:
    classifier = build_classifier(_plan(base, **plan), base)
    freeze(classifier, precision)
    random = np.random.default_rng(0)
    classifier.write({e.name: random.normal(0, 0.5, e.shape).astype(np.float32) for e in classifier.spec.entries})
    return classifier


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(5, 5 + 4 * LENGTH).reshape(4, LENGTH)
    mask = torch.ones_like(ids)
    mask[1, 9:] = mask[2, 1:] = 0
    return ids, mask


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_parts_give_what_the_whole_gives(base: Path, pooling: str, precision: Precision) -> None:
    """Logits, and the gradient of every array that is trained."""
    classifier = _classifier(base, precision, pooling=pooling)
    ids, mask = _inputs()
    hidden = lower(classifier, ids, mask)
    assert hidden.shape == (4, LENGTH, WIDTH)
    assert not hidden.requires_grad
    found = []
    for module, inputs in ((classifier, ids), (Resumable(classifier), ids), (Resumable(classifier), hidden)):
        classifier.zero_grad()
        logits = module(inputs, mask)
        logits.square().sum().backward()
        gradients = [classifier.parameter(name).grad for name in classifier.spec.names]
        found.append([logits.detach(), *(g.clone() for g in gradients if g is not None)])
        assert len(found[-1]) == 1 + len(classifier.spec.names)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert float(found[0][0].abs().max()) > 0.01


def test_only_bert_with_a_frozen_lower_part_is_split(base: Path, tmp_path: Path) -> None:
    assert splits(_classifier(base))
    assert not splits(_classifier(base, first=0))
    other = tiny_base(tmp_path / "roberta", "roberta")
    assert not splits(build_classifier(_plan(other), other))


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    made = RoundTrainer(_plan(base), base, precision=request.param)
    hostile(made)
    return made


def _rows(trainer: RoundTrainer, data: Any, windows: list[int]) -> torch.Tensor:
    engine: Any = trainer.engine(1)
    return engine._rows(data, np.array(windows))  # type: ignore[no-any-return]


def test_gradients_are_those_of_the_tokens_however_much_is_kept(trainer: RoundTrainer) -> None:
    """To the last bit, with weights that show it: of windows that are kept, half of them kept, or none."""
    tokens = trainer.prepare(Texts())
    assert isinstance(tokens, PrefixExamples)
    everyone = list(range(len(TEXTS)))
    expected = _rows(trainer, tokens.tokens, everyone)
    assert expected.abs().max() > 0
    for room in (0, 3 * ROW_BYTES, CACHE_BYTES):
        data = PrefixExamples(tokens.tokens, trainer.classifier, room)
        for windows in ([2], everyone, [7, 2, 5], everyone):
            assert torch.equal(_rows(trainer, data, windows), expected[windows])
        assert len(data._kept) == min(room // ROW_BYTES, len(TEXTS))
        assert sum(row.numel() * 4 for row in data._kept.values()) <= room


def test_what_is_kept_is_not_computed_again(trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = trainer.prepare(Texts())
    first = _rows(trainer, data, [0, 3, 5])
    monkeypatch.setattr("privet.common.prefix.lower", lambda *_: pytest.fail("computed again"))
    assert torch.equal(_rows(trainer, data, [0, 3, 5]), first)


def test_a_window_that_cannot_be_computed_is_zero_and_no_other_is(
    trainer: RoundTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = list(range(len(TEXTS)))
    data: Any = trainer.prepare(Texts())
    expected = _rows(trainer, data.tokens, everyone)
    genuine, faulty = lower, data.tokens._ids[0][6].copy()

    def failing(classifier: Classifier, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if any(np.array_equal(row.numpy(), faulty) for row in ids):
            raise IndexError("not in the vocabulary")
        return genuine(classifier, ids, mask)

    monkeypatch.setattr("privet.common.prefix.lower", failing)
    rows = torch.nan_to_num(_rows(trainer, data, everyone))
    kept = [window for window in everyone if window != 6]
    assert torch.equal(rows[kept], expected[kept])
    assert not rows[6].any()
    assert 6 not in data._kept


def test_a_rounds_update_is_that_without_the_cache(trainer: RoundTrainer) -> None:
    from privet.common.privacy.noise import SeededNoise

    data: Any = trainer.prepare(Texts())
    arrays = trainer.classifier.read()
    event = event_of(noise_multiplier=1.0, steps=3)
    found = [trainer.update(arrays, given, 1, event, SeededNoise(3)) for given in (data, data, data.tokens)]
    for name, array in found[0].items():
        assert np.array_equal(array, found[1][name])
        assert np.array_equal(array, found[2][name])
    assert np.array_equal(trainer.logits(arrays, data), trainer.logits(arrays, data.tokens))


def test_it_is_never_written(trainer: RoundTrainer) -> None:
    with pytest.raises(TypeError, match="stays in this process"):
        pickle.dumps(trainer.prepare(Texts()))


def test_its_room_is_a_part_of_the_models_memory() -> None:
    assert cache_bytes(None) == cache_bytes(10**11) == CACHE_BYTES
    assert cache_bytes(10**9) == 10**9 // 4


def test_batches_are_those_of_the_tokens(trainer: RoundTrainer) -> None:
    data: Any = trainer.prepare(Texts())
    windows = np.array([4, 1, 6])
    pairs = list(zip(data.batches(windows), data.tokens.batches(windows), strict=True))
    for ours, theirs in pairs:
        assert isinstance(ours, Batch)
        assert np.array_equal(ours.places, theirs.places)
        assert np.array_equal(ours.rows, theirs.rows)
        assert torch.equal(ours.inputs[1], theirs.inputs[1])
        assert torch.equal(ours.labels, theirs.labels)
        real = torch.from_numpy(ours.rows)
        assert torch.equal(ours.inputs[0][real], lower(trainer.classifier, *theirs.inputs)[real])
