"""From texts to the store: everything is tokenised once, here, and then only tokens and numbers are left."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.common.config import Plan
from privet.common.tasks.targets import without
from privet.common.tokens import padding, token_rows
from privet.common.wordpiece import quick_tokenizer
from privet.simulations.data import Records, SimulationData
from privet.simulations.engines.store import Part, Store


def fill(plan: Plan, base: Path, sites: Mapping[str, Records], data: SimulationData) -> Store:
    """The store of these sites, each split into training and validation as the plan says, and of the public texts.

    base: the folder of the checked base model. Raises: ModelError.
    """
    if plan.task.kind == "tokens":
        from privet.simulations.filling_tagged import fill_tagged

        return fill_tagged(plan, base, _vocabulary(base), sites, data, _parts(plan, sites))
    tokenizer, vocabulary = quick_tokenizer(base), _vocabulary(base)
    pad, task = padding(tokenizer, vocabulary), plan.task
    labels = [records.labels for records in sites.values()]
    labels.append(data.truth(task))
    texts = [text for records in sites.values() for text in records.texts]
    public_start = len(texts)
    ids, counts, usable = token_rows(
        [*texts, *data.test_texts],
        tokenizer,
        pad,
        task.buckets[-1],
        vocabulary,
        windows=task.windows,
        stride=task.stride,
    )
    train, validation = _parts(plan, sites)
    return Store(
        ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        window_start=_starts([len(row) for row in ids]),
        record_start=_starts(counts),
        labels=without(np.concatenate(labels), ~usable),
        train=train,
        validation=validation,
        names=np.array([name.encode("ascii") for name in sites] or [b""], dtype=np.bytes_)[: len(sites)],
        public_start=public_start,
        pad=pad,
    )


def _vocabulary(base: Path) -> int | None:
    """Token ids are below this: the model's embeddings have as many rows."""
    size = json.loads((base / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    return size if isinstance(size, int) else None


def _parts(plan: Plan, sites: Mapping[str, Records]) -> tuple[Part, Part]:
    """Whose records train and whose validate."""
    fraction = plan.training.train_fraction
    measures = plan.evaluation.release != "none"  # else nobody measures on the others
    found: tuple[_Entries, _Entries] = _Entries(), _Entries()
    first = 0
    for records in sites.values():
        rows = np.arange(first, first + len(records.texts))
        first += len(rows)
        chosen = records.trains(fraction)
        found[0].add(records, rows, chosen)
        found[1].add(records, rows, ~chosen if measures else np.zeros_like(chosen))
    return found[0].part(), found[1].part()


class _Entries:
    """A `Part` in the making."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int32]] = []
        self._units: list[NDArray[np.int32]] = []
        self._num_units: list[int] = []

    def add(self, records: Records, rows: NDArray[np.int64], chosen: NDArray[np.bool_]) -> None:
        """One site's records of the chosen units."""
        kept, units = records.of(chosen)
        self._rows.append(rows[kept].astype(np.int32))
        self._units.append(units.astype(np.int32))
        self._num_units.append(int(chosen.sum()))

    def part(self) -> Part:
        nothing = np.zeros(0, np.int32)
        return Part(
            rows=np.concatenate([nothing, *self._rows]),
            units=np.concatenate([nothing, *self._units]),
            start=_starts([len(rows) for rows in self._rows]),
            num_units=np.array(self._num_units, np.int32),
        )


def _starts(counts: NDArray[np.int64] | list[int]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))])
