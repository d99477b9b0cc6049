"""The arms of `privet bench privacy`: the trainer itself, with its protections taken away one by one.

All read about the same number of records a step, and all clip and noise; only the last is private.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.trainer import TrainSpec, train
from privet.client.training import RoundTrainer
from privet.common.batch import Batch
from privet.common.examples import Examples, FeatureExamples, Integers, TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource, SecureNoise, SeededNoise

RECORDS = 32  # of a step
RECORDS_EACH = 4  # k, in the arms with units


@dataclass(frozen=True)
class Arm:
    """One way to train: `step` takes one step on the records of step number n."""

    name: str
    step: Callable[[int], None]


class Packed:
    """A step's windows in one batch, padded to the longest of them: no fixed rows, no fixed lengths."""

    def __init__(self, inner: TokenExamples | FeatureExamples) -> None:
        self._inner, self.labels = inner, inner.labels
        self.units: Units = inner.units
        self.windows: Windows = inner.windows

    def batches(self, windows: Integers) -> Iterator[Batch]:
        parts = list(self._inner.batches(windows))
        if not parts:
            return
        places = np.concatenate([part.places for part in parts])
        rows = [torch.from_numpy(part.rows) for part in parts]
        columns = zip(*(part.inputs for part in parts), strict=True)
        inputs = tuple(_padded([tensor[own] for tensor, own in zip(c, rows, strict=True)]) for c in columns)
        if len(inputs) == 2:  # ids and mask
            longest = int(inputs[1].sum(1).max())
            inputs = tuple(tensor[:, :longest] for tensor in inputs)
        labels = torch.cat([part.labels[own] for part, own in zip(parts, rows, strict=True)])
        weights = torch.cat([part.weights[own] for part, own in zip(parts, rows, strict=True)])
        yield Batch(inputs, labels, weights, places, np.arange(len(places)))

    def for_inference(self) -> Iterator[Batch]:
        return self._inner.for_inference()


def _padded(parts: list[torch.Tensor]) -> torch.Tensor:
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])


class BenchNoise:
    """Draws the same number of units at every step, so that every arm has the same work; noise from either source."""

    reproducible = True

    def __init__(self, seed: int, count: int, *, secure: bool) -> None:
        self._random, self._count = np.random.default_rng(seed), count
        self._choices: NoiseSource = SecureNoise() if secure else SeededNoise(seed)
        self._secure = secure

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        drawn = np.zeros(n, bool)
        drawn[self._random.choice(n, min(n, self._count), replace=False)] = True
        return drawn

    def choose(self, n: int, k: int) -> NDArray[np.int64]:
        return self._choices.choose(n, k)

    def normal(self, n: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._choices.normal(n) if self._secure else torch.randn(n).double().numpy()
        return values

    def uniform(self, n: int) -> NDArray[np.float64]:
        return self._choices.uniform(n)


def arms(trainer: RoundTrainer, texts: list[str], labels: NDArray[np.int64]) -> list[Arm]:
    """From the plain baseline to the product. Texts are each a record; with units, four in a row are one's."""
    count = len(texts)
    single = _prepared(trainer, texts, labels, np.arange(count))
    fours = _prepared(trainer, texts, labels, np.arange(count) // RECORDS_EACH)
    packed: Any = Packed(single)  # type: ignore[arg-type]
    return [
        _arm("plain: records, packed rows, torch.randn", trainer, packed, each=1, secure=False),
        _arm("+ fixed lengths and rows", trainer, single, each=1, secure=False),
        _arm(f"+ units of {RECORDS_EACH} records", trainer, fours, each=RECORDS_EACH, secure=False),
        _arm("+ secure noise: as a site trains", trainer, fours, each=RECORDS_EACH, secure=True),
    ]


@dataclass(frozen=True)
class _Texts:
    texts: list[str]
    labels: NDArray[np.int64]
    units: NDArray[np.int64]
    num_units: int


def _prepared(trainer: RoundTrainer, texts: list[str], labels: NDArray[np.int64], units: NDArray[np.int64]) -> Examples:
    return trainer.prepare(_Texts(texts, labels, units, int(units.max()) + 1))


def _arm(name: str, trainer: RoundTrainer, data: Examples, *, each: int, secure: bool) -> Arm:
    batch = RECORDS // each
    event = TrainEvent(
        sample_rate=min(1.0, batch / data.units.num_units),
        noise_multiplier=1.0,
        steps=1,
        max_grad_norm=1.0,
        expected_batch=batch,
        unit="record" if each == 1 else "unit",
        max_records=each,
    )
    spec = TrainSpec(event=event, optimizer="adamw", learning_rate=0.01)

    def step(number: int) -> None:
        train(trainer.engine(1), data, spec, BenchNoise(number, batch, secure=secure))

    return Arm(name, step)
