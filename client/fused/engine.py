"""Per-window gradients of a BERT with LoRA and a linear head, for one site or for K sites in one pass.

One forward and one backward pass of the frozen base for the windows of all sites together; each window meets its own
site's LoRA factors and head, and leaves a gradient of its own (`attention`). Clip, noise and step are the trainer's.

At a site every batch of a bucket has the same shape. Under a shape a row's gradient is the same to the last bit at
every place and whatever the other rows hold: `same_everywhere` says whether that is so on this machine. Sites side by
side share passes of a fixed number of tokens (`mixed`), in which rows of several lengths leave little room empty.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from privet.client.flat_engine import Loss
from privet.client.fused.attention import Factors
from privet.client.fused.encoder import Encoder
from privet.client.fused.factors import Layout, Weights
from privet.client.fused.heads import of_logits, tokens_back
from privet.client.fused.judging import read_pieces
from privet.client.fused.lower import lower_states
from privet.client.fused.sums import Passed, by_own_windows
from privet.client.fused.weights import Bert
from privet.client.unit_gradients import Members, UnitGradients, Whole, add_shares, zero_unless_finite
from privet.common.adapter import AdapterSpec, Arrays, Floats
from privet.common.batch import Batch, fill
from privet.common.examples import Examples, Integers, TokenExamples
from privet.common.passes import Pass, mixed

HELD_ROWS = 16_000_000  # values of windows' gradients that are held at once, float32
_CACHED = 2**19  # values of a pass's widest layer: more would fall out of a core's second cache
_LEAST_TOKENS = 512  # of a pass: with fewer, reading the frozen matrices takes as long as their products
_GPU_TOKENS = 2**14
_ODD = 16  # values between the rows of a table: rows a power of two apart would fall into the same lines of a cache


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the plan says of the model: pooling, scale of mean features, LoRA's alpha / rank, padded lengths, the first
    layer with LoRA."""

    pooling: str
    feature_scale: float
    lora_scale: float
    buckets: tuple[int, ...]
    first_layer: int = 0


class FusedEngine:
    """K sites' trainable weights [K, P] on one frozen base.

    whole: the layout of the adapter; trainable: the part of it that is trained; the rest is the same for all sites.
    num_rows: of a batch, by bucket; None: passes of mixed lengths. ragged: each row meets its own site's weights,
    in the same arithmetic for one site as for many; None: where there are several.
    """

    def __init__(
        self,
        base: Bert,
        whole: AdapterSpec,
        trainable: AdapterSpec,
        shape: Shape,
        loss: Loss,
        *,
        num_sites: int = 1,
        num_rows: Sequence[int] | None = None,
        ragged: bool | None = None,
    ) -> None:
        self.spec, self.num_sites = trainable, num_sites
        self._ragged = num_sites > 1 if ragged is None else ragged
        self._base, self._whole, self._shape, self._loss = base, whole, shape, loss
        self.num_rows = None if num_rows is None else tuple(num_rows)
        self.num_tokens = tokens_of(base.inner, base.device.type)
        rows = self.num_tokens // shape.buckets[0] if self.num_rows is None else max(self.num_rows)
        self.max_windows = max(rows, HELD_ROWS // trainable.size)
        self._flat = nn.Parameter(torch.zeros(num_sites, trainable.size, device=base.device))
        self._frozen: dict[str, Tensor] = {}
        self._layout = Layout(whole, trainable, len(base.layers), per_token=shape.pooling == "none")
        self.num_labels = self._layout.head.shape[0]

    def parameters(self) -> Sequence[nn.Parameter]:
        return [self._flat]

    def assign(self, gradients: Tensor) -> None:
        self._flat.grad = gradients.to(self._flat.device)

    def read(self) -> Floats:
        """[P] where there is one site, else [K, P]."""
        flat = self._flat.detach().cpu().numpy().copy()
        return flat[0] if self.num_sites == 1 else flat

    def write(self, flat: Floats) -> None:
        """[P], for every site the same, or [K, P]."""
        with torch.no_grad():
            self._flat.copy_(torch.from_numpy(flat))

    def adopt(self, arrays: Arrays) -> None:
        """Set the whole adapter: the trained part for every site, the rest for all of them."""
        for entry in self._whole.entries:
            if not self._layout.trains(entry):
                self._frozen[entry.name] = torch.from_numpy(np.array(arrays[entry.name])).to(self._base.device)[None]
        self.write(self.spec.flatten(arrays))

    def unit_gradients(self, data: Examples, members: Members) -> UnitGradients:
        """A window that cannot be computed counts as zero."""
        size, count = self.max_windows, len(members.windows)
        owners = None
        if self._ragged:
            owners = np.zeros(count, np.int64) if members.owners is None else members.owners[members.slots]
        if count <= size or members.num_units > 1:
            return by_own_windows(self._passed(data, members.windows, owners), members, self._layout)
        gradient = torch.zeros(self.spec.size, dtype=torch.float64)
        for start in range(0, count, size):
            part = slice(start, start + size)
            passed = self._passed(data, members.windows[part], None if owners is None else owners[part])
            add_shares(gradient, zero_unless_finite(passed.rows(self._layout)), members.shares[part])
        return Whole(gradient, members)

    def rows(self, data: Examples, windows: Integers, owners: Integers | None = None) -> Tensor:
        """The gradient of each window's loss, float32 [windows, P]."""
        return self._passed(data, windows, owners).rows(self._layout)

    def _passed(self, data: Examples, windows: Integers, owners: Integers | None) -> Passed:
        weights = self._weights()
        passes = list(self._passes(data, windows, owners))
        nobodys = sum(len(given.labels) for given in passes)
        tables = self._tables(nobodys + 1)
        for table in tables:
            table[nobodys] = 0.0
        order = np.full(len(windows), nobodys)  # of a window that is in no pass
        start = 0
        for given in passes:
            end = start + len(given.labels)
            self._fill([table[start:end] for table in tables], given, weights)
            order[given.places] = start + given.rows
            start = end
        lora, delta, inputs = (table.cpu() for table in tables)
        return Passed(lora, delta, inputs, order)

    def per_row(self, batch: Batch) -> Tensor:
        """The gradient of each row's loss, float32 [rows, P]; dummy rows are zero."""
        tables = self._tables(len(batch.labels))
        if self._ragged and batch.owners is None:
            batch = replace(batch, owners=np.zeros(len(batch.labels), np.int64))
        self._pass(Pass.of(batch), self._weights(), tables)
        lora, delta, inputs = (table.cpu() for table in tables)
        return Passed(lora, delta, inputs, np.arange(len(lora))).rows(self._layout)

    def _tables(self, num_rows: int) -> list[Tensor]:
        """For LoRA's rows [N, Q], δ [N, L] and x [N, d]; of a head that reads tokens, all is in the rows."""
        factors = (0, 0) if self._layout.per_token else self._layout.head.shape
        return [
            torch.empty(num_rows, width + _ODD, device=self._base.device)[:, :width]
            for width in (self._layout.width, *factors)
        ]

    def _fill(self, tables: Sequence[Tensor], given: Pass, weights: Weights) -> None:
        """As `fill` does: where a pass raises, each window is computed by itself, and is zero where that raises."""
        try:
            self._pass(given, weights, tables)
            return
        except Exception:  # memory errors too
            if given.blank is None:
                raise
        scratch = [torch.empty_like(table) for table in tables]
        for alone in given.apart():
            rows = torch.from_numpy(alone.rows)
            try:
                self._pass(alone, weights, scratch)
                for table, own in zip(tables, scratch, strict=True):
                    table[rows] = own[rows]
            except Exception:
                for table in tables:
                    table[rows] = 0.0

    def _passes(self, data: Examples, windows: Integers, owners: Integers | None) -> Iterator[Pass]:
        passes = self._laid_out(data, windows, owners)
        return _entered(data, windows, passes) if isinstance(data, TokenExamples) else passes

    def _laid_out(self, data: Examples, windows: Integers, owners: Integers | None) -> Iterator[Pass]:
        if self.num_rows is None and isinstance(data, TokenExamples):
            return mixed(data, windows, self.num_tokens, owners)
        return (Pass.of(batch) for batch in self._batches(data, windows, owners))

    def _batches(self, data: Examples, windows: Integers, owners: Integers | None) -> Iterator[Batch]:
        if isinstance(data, TokenExamples) and self.num_rows is not None:
            return data.packed(windows, self.num_rows, owners)
        return data.batches(windows)

    def _pass(self, given: Pass, weights: Weights, tables: Sequence[Tensor]) -> None:
        """One pass forward and back; what it leaves goes into `tables`: LoRA's rows, δ, x."""
        device, scale, first = self._base.device, self._shape.feature_scale, self._layout.first_layer
        owners = None if given.owners is None else torch.from_numpy(given.owners).to(device)
        met = weights.met(owners, tables[0])
        with torch.no_grad():
            encoder = Encoder(self._base, given, met.layers, self._shape.pooling)
            hidden = encoder.forward(first)
            if self._layout.per_token:
                of_hidden = tokens_back(hidden, given, met, self._loss, self._layout.head_outputs(tables[0]))
            else:
                read = encoder.features(hidden, scale)
                delta = of_logits(self._loss, met.logits(read), given.labels.to(device), given.weights.to(device))
                of_hidden = encoder.features_back(met.through_head(delta), read, hidden, scale)
                tables[1].copy_(delta)
                tables[2].copy_(read)
            if first is not None:
                encoder.back(of_hidden, first)

    def logits(self, data: TokenExamples, windows: Integers) -> Tensor:
        """Of each window, float32 [windows, L], under the first site's weights; nan for one that cannot be computed."""
        met = self._weights().met(None)
        table = torch.zeros(len(windows), self.num_labels)

        def outputs(given: Pass) -> Tensor:
            return met.logits(forward(self._base, self._shape, given, met.layers)).cpu()

        with torch.no_grad():
            for given in _entered(data, windows, mixed(data, windows, self.num_tokens)):
                fill(table, given, outputs, torch.nan)
        return table

    def pieces(self, data: TokenExamples, windows: Integers) -> Iterator[tuple[int, Floats]]:
        """What a head that reads tokens says of each window, as `common.tagging` counts it, by the window's place."""
        return read_pieces(self._base, self._weights().met(None), data, windows, self.num_tokens)

    def _weights(self) -> Weights:
        return Weights(self._layout, self._flat.detach(), self._frozen, self._shape.lora_scale)


def read_states(base: Bert, shape: Shape, data: TokenExamples, windows: Integers) -> Floats:
    """What the first layer with LoRA reads of these windows' tokens, float32 [tokens, d]: `lower_states`."""
    passes = mixed(data, windows, tokens_of(base.inner, base.device.type))
    return lower_states(base, shape.first_layer, data, windows, passes)


def _entered(data: TokenExamples, windows: Integers, passes: Iterator[Pass]) -> Iterator[Pass]:
    return passes if data.states is None else data.states.entering(passes, windows)


def forward(base: Bert, shape: Shape, given: Pass, layers: Sequence[Factors | None]) -> Tensor:
    """What the last layer reads of every row, [R, d]."""
    encoder = Encoder(base, given, layers, shape.pooling)
    return encoder.features(encoder.forward(), shape.feature_scale)


def read_features(base: Bert, shape: Shape, data: TokenExamples, windows: Integers) -> Floats:
    """What the last layer reads of these windows without LoRA, float32 [windows, d]; nan for one that cannot be
    computed."""
    table = torch.zeros(len(windows), base.width)
    without = [None] * len(base.layers)
    with torch.no_grad():
        for given in mixed(data, windows, tokens_of(base.inner, base.device.type)):
            fill(table, given, lambda one: forward(base, shape, one, without).cpu(), torch.nan)
    found: Floats = table.numpy()
    return found


def tokens_of(inner: int, device: str = "cpu") -> int:
    """Tokens of one pass; inner: the width of the feed-forward layer, the widest.

    >>> [tokens_of(inner) for inner in (512, 1536, 3072)]
    [1024, 512, 512]
    """
    return _GPU_TOKENS if device == "cuda" else max(_LEAST_TOKENS, min(4096, _CACHED // inner))
