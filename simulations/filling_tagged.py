"""As `filling`, for texts of which every word has a tag."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privet.common.alignment import align
from privet.common.config import Plan
from privet.common.model import load_tokenizer
from privet.common.tagged import TagTable
from privet.common.tasks.tags import Tags
from privet.common.tasks.targets import UNKNOWN
from privet.common.tokens import padding
from privet.simulations.data import Records, SimulationData
from privet.simulations.engines.store import Part, Store


def fill_tagged(
    plan: Plan,
    base: Path,
    vocabulary: int | None,
    sites: Mapping[str, Records],
    data: SimulationData,
    parts: tuple[Part, Part],
) -> Store:
    """The store of these sites and of the public texts. Raises: ModelError."""
    tokenizer, task = load_tokenizer(base), plan.task
    pad = padding(tokenizer, vocabulary)
    tags: list[Tags | None] = [row for records in sites.values() for row in records.tags]
    texts = [text for records in sites.values() for text in records.texts]
    public_start = len(texts)
    tags += data.test_tags(task)
    found = align(
        [*texts, *data.test_texts],
        tokenizer,
        pad,
        task.buckets[-1],
        vocabulary,
        windows=task.windows,
        stride=task.stride,
    )
    table = TagTable.of(tags)
    known = found.usable & np.array([row is not None for row in tags], np.bool_)
    return Store(
        ids=np.concatenate([np.zeros(0, np.int32), *found.ids]),
        window_start=_starts(np.array([len(row) for row in found.ids], np.int64)),
        record_start=_starts(found.counts),
        labels=np.where(known, 0, UNKNOWN),
        train=parts[0],
        validation=parts[1],
        names=np.array([name.encode("ascii") for name in sites] or [b""], dtype=np.bytes_)[: len(sites)],
        public_start=public_start,
        pad=pad,
        words=np.concatenate([np.zeros(0, np.int32), *found.words]),
        tags=table.tags,
        tag_start=table.start,
    )


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
