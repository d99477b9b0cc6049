"""What the layers below `lora.first_layer`, which no round changes, give of every token: computed once, kept beside the
token ids for the fused engine.

All windows are computed beforehand, not as they are drawn, so that nothing hangs on what was drawn before. A window's
states are the same to the last bit as when they are computed again in a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from privet.common.adapter import Floats
from privet.common.passes import Pass

Integers = NDArray[np.int64]


class Windows(Protocol):
    """Of `common.examples.TokenExamples`: window w has the tokens starts[w] to starts[w + 1]."""

    starts: Integers


@dataclass(frozen=True, eq=False, repr=False)
class States:
    """layer: the one that reads them; values: float32 [tokens, d], window after window, nan where one cannot be
    computed; starts: [W + 1], of each window's tokens."""

    layer: int
    values: Floats
    starts: Integers

    def __reduce__(self) -> NoReturn:
        raise TypeError("what was computed of text stays in this process, or in memory that its workers map.")

    def entering(self, passes: Iterator[Pass], windows: Sequence[int] | Integers) -> Iterator[Pass]:
        """The same passes of these windows, with their states; those of nobody's tokens are zero."""
        asked = np.asarray(windows, np.int64)
        for given in passes:
            chosen = np.full(len(given.labels), -1, np.int64)
            chosen[given.rows] = asked[given.places]
            found = np.zeros((len(given.ids), self.values.shape[1]), np.float32)
            for segment in given.segments:
                own = chosen[segment.rows]
                tokens = np.arange(segment.length)
                lengths = np.where(own >= 0, self.starts[own + 1] - self.starts[own], 0)
                held = tokens < lengths[:, None]
                places = (self.starts[own][:, None] + tokens)[held]
                found[segment.tokens][held.reshape(-1)] = self.values[places]
            yield replace(given, states=torch.from_numpy(found), layer=self.layer)
