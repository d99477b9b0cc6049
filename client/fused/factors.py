"""Which part of the flat weights [K, P] is which LoRA factor or head, and how the rows of a batch meet them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from privet.client.fused.attention import Factors
from privet.common.adapter import AdapterSpec, Entry, Role
from privet.common.examples import Integers

_PROJECTIONS = ("query", "key", "value")
_LORA = re.compile(r"encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.lora_([AB])\.weight$")


@dataclass(frozen=True)
class Pair:
    """The factors of one projection of one layer."""

    target: int  # query 0, key 1, value 2
    down: Entry
    up: Entry


class Layout:
    """The adapter's arrays by layer, and the columns of the trained ones.

    A window's gradient of the LoRA factors is kept as one row of Q values: for each layer first the A of all its
    targets, [m r, d], then their Bᵀ, [r, d] each, as the backward pass makes them. `places` [Q] says where in the
    flat vector [P] each belongs. per_token: the head reads every token, so that its gradient is no single outer
    product; it stands at the end of the row, weight [L, d] and bias [L].
    Raises: ValueError where of one layer the A, or the B, of some targets is trained and that of others is not.
    """

    def __init__(self, whole: AdapterSpec, trainable: AdapterSpec, num_layers: int, *, per_token: bool = False) -> None:
        sizes = [entry.size for entry in trainable.entries]
        self.size = trainable.size
        self.columns = dict(zip(trainable.names, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        named = {_lora_name(e.name): e for e in whole.entries if e.role in (Role.LORA_A, Role.LORA_B)}
        self.layers = [
            [
                Pair(target, named[layer, target, "A"], named[layer, target, "B"])
                for target in range(len(_PROJECTIONS))
                if (layer, target, "A") in named
            ]
            for layer in range(num_layers)
        ]
        head = {len(entry.shape): entry for entry in whole.entries if entry.role is Role.HEAD}
        self.head, self.head_bias = head[2], head[1]
        self._starts: list[tuple[int | None, list[int]]] = []  # of each layer in a row: its A, and each target's Bᵀ
        places: list[Integers] = []
        self.width = 0  # Q
        for pairs in self.layers:
            down = self._append(places, [self._of(pair.down) for pair in pairs])
            starts = [self._append(places, [np.ascontiguousarray(self._of(pair.up).T)]) for pair in pairs]
            ups = [start for start in starts if start is not None]
            self._starts.append((down, ups))
            if any(self.trains(pair.down) != (down is not None) for pair in pairs) or len(ups) not in (0, len(pairs)):
                raise ValueError("Expected a layer's A to be trained for all targets or for none, and its B likewise.")
        trained = [layer for layer, (down, ups) in enumerate(self._starts) if down is not None or ups]
        self.first_layer = min(trained, default=None)  # whose factors are trained; None: the head alone is
        self.per_token, self._heads = per_token, {}
        if per_token:
            self._heads = {e.name: self._append(places, [self._of(e)]) for e in (self.head, self.head_bias)}
        self.places = np.concatenate([np.zeros(0, np.int64), *places])

    def trains(self, entry: Entry) -> bool:
        return entry.name in self.columns

    def factored(self, entry: Entry) -> bool:
        """Whether a window's gradient of a head's array is held as δ and x."""
        return self.trains(entry) and not self.per_token

    def view(self, flat: Tensor, entry: Entry) -> Tensor:
        """An array's columns of [rows, P], as [rows, *shape]; a view."""
        start = self.columns[entry.name]
        return flat[:, start : start + entry.size].view(-1, *entry.shape)

    def outputs(self, table: Tensor, layer: int) -> tuple[Tensor | None, list[Tensor]]:
        """Where the backward pass leaves a layer's gradients in a table [N, Q]: A [N, m r, d], each Bᵀ [N, r, d]."""
        pairs, (down, ups) = self.layers[layer], self._starts[layer]
        d = pairs[0].down.shape[1]
        of_down = None
        if down is not None:
            of_down = table[:, down : down + len(pairs) * pairs[0].down.size].view(len(table), -1, d)
        of_ups = [
            table[:, start : start + pair.up.size].view(len(table), -1, d)
            for start, pair in zip(ups, pairs, strict=bool(ups))
        ]
        return of_down, of_ups

    def head_outputs(self, table: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where a head that reads tokens leaves its gradients in a table [N, Q]: weight [N, L, d], bias [N, L]; None
        where it is not trained."""
        weight, bias = (
            None if start is None else table[:, start : start + entry.size].view(len(table), *entry.shape)
            for entry, start in ((entry, self._heads[entry.name]) for entry in (self.head, self.head_bias))
        )
        return weight, bias

    def _of(self, entry: Entry) -> Integers:
        """The array's places in the flat vector, of its shape; none where it is not trained."""
        if not self.trains(entry):
            return np.zeros((0, 0), np.int64)
        start = self.columns[entry.name]
        return np.arange(start, start + entry.size).reshape(entry.shape)

    def _append(self, places: list[Integers], arrays: Sequence[Integers]) -> int | None:
        start, found = self.width, [array.reshape(-1) for array in arrays]
        size = sum(len(part) for part in found)
        places += found
        self.width += size
        return start if size else None


class Weights:
    """LoRA factors and head of K sites at one moment. frozen: arrays that are the same for all, [1, *shape]."""

    def __init__(self, layout: Layout, flat: Tensor, frozen: Mapping[str, Tensor], scale: float) -> None:
        self._layout, self._scale = layout, scale

        def get(entry: Entry) -> Tensor:
            return layout.view(flat, entry) if layout.trains(entry) else frozen[entry.name]

        self._downs = [torch.cat([get(pair.down) for pair in pairs], 1) if pairs else None for pairs in layout.layers]
        self._ups = [[get(pair.up) for pair in pairs] for pairs in layout.layers]
        self._head, self._bias = get(layout.head), get(layout.head_bias)

    def met(self, owners: Tensor | None, table: Tensor | None = None) -> "Met":
        """As the rows of a batch meet them: row i those of site owners[i], or all of them those of the first.

        table [N, Q]: where the backward pass leaves each row's gradient; None without one.
        """

        trains = self._layout.trains

        def of_rows(factor: Tensor, entry: Entry) -> Tensor:
            """A frozen factor is met as the same by all, however many sites there are."""
            return factor[:1] if owners is None or not trains(entry) else factor[owners]

        layers: list[Factors | None] = []
        for down, ups, pairs in zip(self._downs, self._ups, self._layout.layers, strict=True):
            if down is None:
                layers.append(None)
                continue
            out = (None, []) if table is None else self._layout.outputs(table, len(layers))
            layers.append(
                Factors(
                    of_rows(down, pairs[0].down),
                    [of_rows(up, pair.up) for up, pair in zip(ups, pairs, strict=True)],
                    tuple(pair.target for pair in pairs),
                    self._scale,
                    *out,
                )
            )
        return Met(layers, of_rows(self._head, self._layout.head), of_rows(self._bias, self._layout.head_bias))


@dataclass(frozen=True)
class Met:
    """The weights that the rows of one batch meet: layers' factors; the head's weight [N, L, d] and bias [N, L], or
    [1, ...] where all rows have the same."""

    layers: Sequence[Factors | None]
    head: Tensor
    bias: Tensor

    def logits(self, inputs: Tensor) -> Tensor:
        """[N, L] of features [N, d]. Row by row: in one product of few columns a row's place would show."""
        weight = self.head.expand(len(inputs), -1, -1)
        return torch.baddbmm(self.bias.expand(len(inputs), -1).unsqueeze(2), weight, inputs.unsqueeze(2)).squeeze(2)

    def logits_of_tokens(self, rows: slice, inputs: Tensor) -> Tensor:
        """[n, T, L] of the hidden states [n, T, d] of some rows, each row by itself."""
        weight, bias = self._head_of(rows, len(inputs))
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.transpose(1, 2))

    def tokens_through_head(self, rows: slice, delta: Tensor) -> Tensor:
        """∂ loss / ∂ hidden states [n, T, d] of ∂ loss / ∂ logits [n, T, L] of some rows."""
        return torch.bmm(delta, self._head_of(rows, len(delta))[0])

    def _head_of(self, rows: slice, count: int) -> tuple[Tensor, Tensor]:
        """Weight [n, L, d] and bias [n, L] of some rows."""
        weight, bias = (part if len(part) == 1 else part[rows] for part in (self.head, self.bias))
        return weight.expand(count, -1, -1), bias.expand(count, -1)

    def through_head(self, delta: Tensor) -> Tensor:
        """∂ loss / ∂ features [N, d] of ∂ loss / ∂ logits [N, L]."""
        return torch.bmm(delta.unsqueeze(1), self.head.expand(len(delta), -1, -1)).squeeze(1)


def _lora_name(name: str) -> tuple[int, int, str]:
    """Layer, projection and side of a LoRA factor.

    Raises: ValueError.
    """
    found = _LORA.search(name)
    if found is None:
        raise ValueError(f"Expected the name of a LoRA factor of a BERT, got {name!r}.")
    return int(found[1]), _PROJECTIONS.index(found[2]), found[3]
