"""Many virtual sites in one pass: the fused engine, from the base's files alone.

A worker that builds this imports neither transformers nor peft, opacus or datasets.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privet.client.flat_engine import GradientEngine
from privet.client.fused import FusedEngine, frozen_base, read_features, read_states, shape_of
from privet.client.linear import LinearEngine
from privet.client.trainer import Local, TrainSpec, train_together
from privet.common.adapter import AdapterSpec, Arrays, Floats, Role
from privet.common.examples import Examples, FeatureExamples, Integers, TokenExamples
from privet.common.grouping import Units, Windows
from privet.common.initial import initial_adapter
from privet.common.layout import adapter_spec
from privet.common.methods import adjustment, method_for
from privet.common.precision import usable_device, usable_precision
from privet.common.privacy.noise import SeededNoise
from privet.common.schedule import learning_rate
from privet.common.states import States
from privet.common.tagged import TaggedExamples, TagTable
from privet.common.tagging import counted
from privet.common.tasks.base import task_of
from privet.simulations.engines.cells import site_cells
from privet.simulations.engines.store import Part, Store
from privet.simulations.engines.work import Recipe, Run


class FusedWork:
    """A `Work`; see work.py. base: the folder of the checked base model, one that the fused engine covers."""

    def __init__(self, recipe: Recipe, store: Store, base: Path) -> None:
        plan, device = recipe.plan, usable_device(recipe.device)
        precision, words = usable_precision(recipe.precision, device)
        spec = adapter_spec(plan, base)
        assert spec is not None
        self.spec: AdapterSpec = spec
        self._plan, self._store, self._method, self._task = plan, store, method_for(plan), task_of(plan.task)
        self._base = frozen_base(plan, base, precision, device)
        self._shape = shape_of(plan)
        self._held: dict[str, Floats] = dict(initial_adapter(spec, plan.method.seed))
        self._frozen_features = self._method.frozen_features(spec) and not self._task.per_token
        way = "last layer, float64" if self._frozen_features else "fused, sites side by side"
        keeps = self._shape.first_layer > 0 and not self._frozen_features
        self.state_bytes = 4 * self._base.width * keeps
        self.words = f"{way}; {words}" + (" on CUDA" if device == "cuda" else "")
        nobody = Units(np.zeros(len(store.labels), np.int64), 1)
        windows = Windows(np.diff(store.record_start))
        self._tokens = (
            TokenExamples.of(store.ids, store.window_start, store.labels, nobody, plan.task.buckets, store.pad, windows)
            if store.words is None
            else _tagged(store, nobody, plan.task.buckets, windows)
        )
        self._run: Run | None = None

    def begin(self, run: Run) -> None:
        self._run = run
        self._held = dict(initial_adapter(self.spec, self._plan.method.seed))

    def hold(self, arrays: Arrays) -> None:
        self._held |= arrays

    def train(self, round: int, sites: Sequence[int], start: Floats) -> Floats:
        trainable = self._method.trainable(self.spec, round)
        if not self._frozen_features:
            engine = FusedEngine(
                self._base,
                self.spec,
                trainable,
                self._shape,
                self._task.per_example_loss,
                num_sites=len(sites),
                ragged=True,
            )
            engine.adopt(self._held | trainable.unflatten(start if start.ndim == 1 else start[0]))
            engine.write(start)
            return self._updates(engine, round, sites)
        updates = np.empty((len(sites), trainable.size), np.float32)
        layer, names = self._last_layer()
        engine_of_one = LinearEngine(layer, names, trainable, self._task.per_example_loss)
        for row, site in enumerate(sites):
            engine_of_one.write(start if start.ndim == 1 else start[row])
            updates[row] = self._updates(engine_of_one, round, [site])[0]
        return updates

    def cells(self, number: int, sites: Sequence[int], arrays: Floats) -> NDArray[np.float64]:
        release = self._plan.evaluation.release
        assert release != "none"
        parts = [self._store.validation.of(site) for site in sites]
        rows = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        logits, labels = self._logits(arrays, rows), self._store.labels[rows]
        found, first = [], 0
        for own, units, num_units in parts:
            mine = slice(first, first + len(own))
            counted = logits[mine], labels[mine], units.astype(np.int64), num_units
            found.append(site_cells(self._task, release, *counted))
            first += len(own)
        return np.stack(found)

    def logits(self, arrays: Floats, records: range) -> Floats:
        first = self._store.public_start + records.start
        return self._logits(arrays, np.arange(first, first + len(records)))

    def features(self, windows: range) -> Floats:
        return read_features(self._base, self._shape, self._tokens, np.arange(windows.start, windows.stop))

    def states(self, windows: range) -> Floats:
        return read_states(self._base, self._shape, self._tokens, np.arange(windows.start, windows.stop))

    @property
    def _texts(self) -> TokenExamples:
        """With their states, once they are attached."""
        found, values = self._tokens, self._store.features
        if self.state_bytes and values is not None and found.states is None:
            found.states = States(self._shape.first_layer, values, found.starts)
        return found

    def _updates(self, engine: GradientEngine, round: int, sites: Sequence[int]) -> Floats:
        assert self._run is not None
        training = self._plan.training
        events = [self._run.event(site, self._plan) for site in sites]
        locals_ = [
            Local(self._at(site), event, SeededNoise(self._run.seed, self._store.name(site), round))
            for site, event in zip(sites, events, strict=True)
        ]
        spec = TrainSpec(
            event=events[0],
            optimizer=training.optimizer,
            learning_rate=learning_rate(training, round),
            weight_decay=training.weight_decay,
            adjust=adjustment(self._method),
        )
        return train_together(engine, locals_, spec)

    def _at(self, site: int) -> Examples:
        """What one site trains on."""
        rows, start = _by_unit(self._store.train, site)
        if not self._frozen_features:
            return self._texts.at_site(Units.view(rows, start))
        return self._features_of(rows, Units.view(np.arange(len(rows)), start))

    def _features_of(self, rows: Integers, units: Units) -> FeatureExamples:
        store = self._store
        assert store.features is not None
        windows, counts = self._tokens.windows.of(rows)
        features = torch.from_numpy(store.features[windows])
        return FeatureExamples(features, store.labels[rows], units, Windows(counts))

    def _logits(self, arrays: Floats, rows: Integers) -> Floats:
        """Of these records, float32 [N, L]: the mean over a record's windows. Of a task that labels tokens the rows of
        `common.tagging.entity_table`."""
        windows, counts = self._tokens.windows.of(rows)
        named = self.spec.unflatten(arrays)
        if self._frozen_features:
            examples = self._features_of(rows, Units(np.zeros(len(rows), np.int64), 1))
            layer, parameters = self._last_layer()
            with torch.inference_mode():
                for name, parameter in parameters.items():
                    parameter.copy_(torch.from_numpy(named[name]))
                found = layer(examples.features)
                found[torch.from_numpy(examples.unsound[examples.windows.record])] = torch.nan
        else:
            engine = FusedEngine(self._base, self.spec, self.spec, self._shape, self._task.per_example_loss)
            engine.adopt(named)
            texts = self._texts
            if isinstance(texts, TaggedExamples):
                return counted(texts, rows, engine.pieces(texts, windows), len(self._plan.task.labels))
            found = engine.logits(texts, windows)
        return Windows(counts).mean(found)

    def _last_layer(self) -> tuple[nn.Linear, dict[str, nn.Parameter]]:
        weight, bias = sorted((e for e in self.spec.entries if e.role is Role.HEAD), key=lambda e: -len(e.shape))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        return layer, {weight.name: layer.get_parameter("weight"), bias.name: layer.get_parameter("bias")}


def _by_unit(part: Part, site: int) -> tuple[Integers, Integers]:
    """A site's records in the order of its units, and where each unit's begin."""
    rows, units, num_units = part.of(site)
    order = np.argsort(units, kind="stable")
    start = np.searchsorted(units[order], np.arange(num_units + 1)).astype(np.int64)
    return rows[order].astype(np.int64), start


def _tagged(store: Store, units: Units, buckets: Sequence[int], windows: Windows) -> TaggedExamples:
    """All of a store whose words have tags."""
    assert store.words is not None
    assert store.tags is not None
    assert store.tag_start is not None
    ids, words = (
        [flat[start:end] for start, end in pairwise(store.window_start.tolist())] for flat in (store.ids, store.words)
    )
    tags = TagTable(store.tags, store.tag_start)
    return TaggedExamples(ids, words, tags, store.labels, units, buckets, store.pad, windows)
