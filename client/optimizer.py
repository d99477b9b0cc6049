"""A local optimizer over one or more tensors: the rules of torch.optim.SGD and torch.optim.AdamW, element by element.

torch's own classes bring in its compiler when the first one is made, which takes a worker four seconds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


Watcher = Callable[[Sequence[nn.Parameter]], None]
_watchers: list[Watcher] = []


@contextmanager
def watching(see: Watcher) -> Iterator[None]:
    """While open, `see` is told the parameters, with their gradients, before every step: for an auditor."""
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)


class Optimizer(Protocol):
    def step(self) -> None:
        """Move every parameter by its gradient."""


class SGD:
    """w ← w - η (g + λ w)."""

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self._parameters, self._rate, self._decay = parameters, learning_rate, weight_decay

    @torch.no_grad()
    def step(self) -> None:
        _tell(self._parameters)
        for parameter in self._parameters:
            assert parameter.grad is not None
            gradient = parameter.grad
            if self._decay:
                gradient = gradient.add(parameter, alpha=self._decay)
            parameter.add_(gradient, alpha=-self._rate)


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2: decay apart from the gradient; moments 0.9 and 0.999."""

    def __init__(self, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self._parameters, self._rate, self._decay = parameters, learning_rate, weight_decay
        self._moments = [(torch.zeros_like(p.detach()), torch.zeros_like(p.detach())) for p in parameters]
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        _tell(self._parameters)
        self._steps += 1
        first, second = 1 - _BETA1**self._steps, 1 - _BETA2**self._steps
        for parameter, (mean, square) in zip(self._parameters, self._moments, strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad
            parameter.mul_(1 - self._rate * self._decay)
            mean.lerp_(gradient, 1 - _BETA1)
            square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            scale = square.sqrt().div_(math.sqrt(second)).add_(_EPSILON)
            parameter.addcdiv_(mean, scale, value=-self._rate / first)


def _tell(parameters: Sequence[nn.Parameter]) -> None:
    for see in tuple(_watchers):
        with torch.enable_grad():
            see(parameters)


def make(kind: str, parameters: Sequence[nn.Parameter], learning_rate: float, weight_decay: float) -> Optimizer:
    """Raises: ValueError for a kind other than "sgd" and "adamw"."""
    if kind == "sgd":
        return SGD(parameters, learning_rate, weight_decay)
    if kind == "adamw":
        return AdamW(parameters, learning_rate, weight_decay)
    raise ValueError(f"Expected optimizer 'sgd' or 'adamw', got {kind!r}.")
