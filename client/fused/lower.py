"""Hidden states below the first layer with LoRA, of every token of some windows."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from privet.client.fused.encoder import Encoder
from privet.client.fused.weights import Bert
from privet.common.adapter import Floats
from privet.common.batch import fill
from privet.common.examples import Integers, TokenExamples
from privet.common.passes import Pass


def lower_states(base: Bert, layer: int, data: TokenExamples, windows: Integers, passes: Iterable[Pass]) -> Floats:
    """What `layer` reads of these windows' tokens, float32 [tokens, d], window after window; nan for a window that
    cannot be computed, or is in no pass.

    passes: of these windows, laid out as those that train.
    """
    lengths = data.starts[windows + 1] - data.starts[windows]
    ends = np.cumsum(lengths)
    found = np.full((int(lengths.sum()), base.width), np.nan, np.float32)
    without = [None] * len(base.layers)

    def compute(given: Pass) -> Tensor:
        hidden = Encoder(base, given, without, "none").lower(layer).cpu()
        rows = torch.zeros(len(given.labels), _longest(given) * base.width)
        for segment in given.segments:
            rows[segment.rows, : segment.length * base.width] = hidden[segment.tokens].reshape(segment.num_rows, -1)
        return rows

    with torch.no_grad():
        for given in passes:
            table = torch.zeros(len(given.places), _longest(given) * base.width)
            fill(table, replace(given, places=np.arange(len(given.places))), compute, torch.nan)
            for place, row in zip(given.places.tolist(), table.numpy(), strict=True):
                own = slice(int(ends[place] - lengths[place]), int(ends[place]))
                found[own] = row[: lengths[place] * base.width].reshape(-1, base.width)
    return found


def _longest(given: Pass) -> int:
    return max(segment.length for segment in given.segments)
