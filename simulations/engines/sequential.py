"""One site after the other, by the very trainer of a site's agent: the reference that faster work is held to."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from privet.client.evaluation import judged
from privet.client.training import RoundTrainer
from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.base import checked_base
from privet.common.examples import Examples, FeatureExamples, Integers, TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.inference import frozen_features, record_logits
from privet.common.initial import initial_adapter
from privet.common.precision import usable_precision
from privet.common.privacy.noise import SeededNoise
from privet.common.tagged import TaggedExamples, TagTable
from privet.common.tasks.targets import Targets, known
from privet.simulations.engines.cells import site_cells
from privet.simulations.engines.store import Part, Store
from privet.simulations.engines.work import Recipe, Run


class SequentialWork:
    """A `Work`; see work.py. trainer: of the same plan, where there is one already."""

    def __init__(self, recipe: Recipe, store: Store, trainer: RoundTrainer | None = None, *, because: str = "") -> None:
        plan = recipe.plan
        self._plan, self._store, self._because = plan, store, because
        precision, _ = usable_precision(recipe.precision)
        base = recipe.base or checked_base(plan.model.base, plan.model.sha256)
        self._trainer = trainer or RoundTrainer(plan, base, precision=precision)
        self._precision = usable_precision(self._trainer.precision)[1]
        self._run: Run | None = None
        self._others: dict[str, Floats] = {}  # what a round may not train

    @property
    def spec(self) -> AdapterSpec:
        return self._trainer.spec

    @property
    def words(self) -> str:
        way = "last layer, float64" if self._trainer.frozen_features else "opacus, one site after the other"
        return f"{way}; {self._precision}" + (f" (not fused: {self._because})" if self._because else "")

    def begin(self, run: Run) -> None:
        self._run = run
        self._others = initial_adapter(self.spec, self._plan.method.seed)

    def hold(self, arrays: Arrays) -> None:
        self._others |= arrays

    def train(self, round: int, sites: Sequence[int], start: Floats) -> Floats:
        assert self._run is not None
        trainable = self._trainer.method.trainable(self.spec, round)
        fixed = {name: array for name, array in self._others.items() if name not in trainable.names}
        self._trainer.classifier.write(fixed)  # whatever was judged in between
        updates = np.empty((len(sites), trainable.size), np.float32)
        for row, site in enumerate(sites):
            weights = trainable.unflatten(start if start.ndim == 1 else start[row])
            noise = SeededNoise(self._run.seed, self._store.name(site), round)
            event = self._run.event(site, self._plan)
            update = self._trainer.update(weights, self._examples(self._store.train, site), round, event, noise)
            updates[row] = trainable.flatten(update)
        return updates

    def cells(self, number: int, sites: Sequence[int], arrays: Floats) -> NDArray[np.float64]:
        release = self._plan.evaluation.release
        assert release != "none"
        named = self.spec.unflatten(arrays)
        return np.stack(
            [
                site_cells(
                    self._trainer.task,
                    release,
                    *judged(self._trainer, named, self._examples(self._store.validation, site)),
                )
                for site in sites
            ]
        )

    def logits(self, arrays: Floats, records: range) -> Floats:
        first = self._store.public_start + records.start
        rows = np.arange(first, first + len(records))
        self._trainer.classifier.write(self.spec.unflatten(arrays))
        return record_logits(self._trainer.classifier, self._of(rows, np.arange(len(rows)), len(rows)))

    state_bytes = 0

    def states(self, windows: range) -> Floats:
        raise RuntimeError("the trainer keeps its own (`common.prefix`)")

    def features(self, windows: range) -> Floats:
        nobody = np.zeros(len(windows), np.int64)
        tokens = self._tokens(np.arange(windows.start, windows.stop), nobody, Units(nobody, 1), Windows(nobody + 1))
        found = frozen_features(self._trainer.classifier, tokens)
        table: Floats = found.features.numpy().copy()
        table[~known(found.labels)] = np.nan
        return table

    def _examples(self, part: Part, site: int) -> Examples:
        rows, units, num_units = part.of(site)
        return self._of(rows.astype(np.int64), units.astype(np.int64), num_units)

    def _of(self, rows: Integers, units: Integers, num_units: int) -> Examples:
        """These records of the store, as an agent has its own."""
        store = self._store
        first = store.record_start[rows]
        windows = Windows(store.record_start[rows + 1] - first)
        numbers = np.arange(int(windows.start[-1])) + np.repeat(first - windows.start[:-1], windows.counts)
        labels, grouped = store.labels[rows], Units(units, num_units)
        if self._trainer.frozen_features:
            assert store.features is not None
            return FeatureExamples(torch.from_numpy(store.features[numbers]), labels, grouped, windows)
        if store.words is not None:
            return self._tagged(rows, numbers, labels, grouped, windows)
        return self._tokens(numbers, labels, grouped, windows)

    def _tokens(self, numbers: Integers, labels: Targets, units: Units, windows: Windows) -> TokenExamples:
        ids = self._of_windows(self._store.ids, numbers)
        return TokenExamples(ids, labels, units, self._plan.task.buckets, self._store.pad, windows)

    def _tagged(
        self, rows: Integers, numbers: Integers, labels: Targets, units: Units, windows: Windows
    ) -> TaggedExamples:
        store = self._store
        assert store.words is not None
        assert store.tags is not None
        assert store.tag_start is not None
        tags = TagTable.of([store.tags[store.tag_start[row] : store.tag_start[row + 1]] for row in rows.tolist()])
        ids, words = self._of_windows(store.ids, numbers), self._of_windows(store.words, numbers)
        return TaggedExamples(ids, words, tags, labels, units, self._plan.task.buckets, store.pad, windows)

    def _of_windows(self, flat: NDArray[np.int32], numbers: Integers) -> list[NDArray[np.int32]]:
        starts = self._store.window_start
        return [flat[starts[number] : starts[number + 1]] for number in numbers.tolist()]
