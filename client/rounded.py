"""Opacus' engine on a base in bfloat16, and the oracle that such a base needs."""

import torch
from torch import Tensor

from privet.client.gradients import OpacusEngine
from privet.common.batch import Batch


class RoundedOpacusEngine(OpacusEngine):
    """In bfloat16 a product is rounded otherwise in a batch of another shape: by one unit in the last place of the few
    that there are, and a chaotic model makes any number of it.

    So the oracle's batch has the shape of the batch that is tested: the row at its place, and beside it, with weight
    zero, copies of itself. The self-test is then as tight as in float32, and still sees a mate that shows in a row.
    """

    def alone(self, batch: Batch, row: int) -> Tensor:
        """One row's gradient [P] by a plain backward, without hooks, in a batch of the same shape."""
        weights = torch.zeros_like(batch.weights)
        weights[row] = batch.weights[row]
        inputs = tuple(tensor[row : row + 1].expand_as(tensor).contiguous() for tensor in batch.inputs)
        self._module.zero_grad()
        self._module.disable_hooks()
        try:
            with torch.enable_grad():
                labels = batch.labels[row].expand_as(batch.labels)
                self._loss(self._module(*inputs), labels, weights).sum().backward()
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
            return torch.cat([part.reshape(-1) for part in parts])
        finally:
            self._module.enable_hooks()
            self._clear()
