"""What a head that reads tokens says of windows, in passes of mixed lengths, for `common.tagging` to count."""

from collections.abc import Iterator

import torch
from torch import Tensor

from privet.client.fused.encoder import Encoder
from privet.client.fused.factors import Met
from privet.client.fused.heads import rows_of
from privet.client.fused.weights import Bert
from privet.common.adapter import Floats
from privet.common.batch import fill
from privet.common.examples import Integers, TokenExamples
from privet.common.passes import Pass, mixed
from privet.common.tagging import pieces_of


def read_pieces(
    base: Bert, met: Met, data: TokenExamples, windows: Integers, num_tokens: int
) -> Iterator[tuple[int, Floats]]:
    """Of each window its place among these and its row [2 T] of `pieces_of`; nan where it cannot be computed."""
    table = torch.zeros(len(windows), 2 * data.buckets[-1])

    def compute(given: Pass) -> Tensor:
        assert given.tags is not None
        hidden = Encoder(base, given, met.layers, "none").forward()
        found = torch.zeros(len(given.labels), table.shape[1])
        for segment in given.segments:
            targets = given.tags[segment.tokens].view(segment.num_rows, segment.length)
            logits = met.logits_of_tokens(segment.rows, rows_of(hidden, segment)).cpu()
            found[segment.rows, : 2 * segment.length] = pieces_of(logits, targets)
        return found

    with torch.no_grad():
        passes = mixed(data, windows, num_tokens)
        for given in passes if data.states is None else data.states.entering(passes, windows):
            fill(table, given, compute, torch.nan)
    for place, bucket in enumerate(data.bucket_of[windows].tolist()):
        yield place, table[place, : 2 * data.buckets[bucket]].numpy()
