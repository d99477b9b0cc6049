"""Small works for tests of engines: built by name in worker processes, which load neither torch nor a model."""

import os
import signal
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privet.common.adapter import AdapterSpec, Arrays, Entry, Floats, Role
from privet.common.config import Plan
from privet.common.errors import ModelError
from privet.common.privacy.noise import SeededNoise
from privet.simulations.engines.store import Part, Store
from privet.simulations.engines.work import Make, Recipe, Run

SPEC = AdapterSpec((Entry("head.bias", (3,), Role.HEAD), Entry("head.weight", (3, 4), Role.HEAD)))
BAD = 7  # the site at which something goes wrong


class Small:
    """Updates are the start, plus the site's noise and its number of tokens; cells are of site and evaluation."""

    spec, words, state_bytes = SPEC, "small", 0

    def __init__(self, store: Store) -> None:
        self._store, self._run = store, Run(0, "unit", 1, np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
        self._held: Arrays = {}

    def begin(self, run: Run) -> None:
        self._run = run

    def hold(self, arrays: Arrays) -> None:
        self._held = arrays

    def train(self, round: int, sites: Sequence[int], start: Floats) -> Floats:
        starts = np.broadcast_to(start, (len(sites), start.shape[-1]))
        return np.stack([self._update(round, site, row) for site, row in zip(sites, starts, strict=True)])

    def _update(self, round: int, site: int, start: Floats) -> Floats:
        tokens = self._store.ids[self._store.train.of(site)[0]].sum()
        held = sum(float(array.sum()) for array in self._held.values())
        noise = SeededNoise(self._run.seed, self._store.name(site), round).normal(len(start))
        return np.asarray(start + noise + tokens + held, np.float32)

    def cells(self, number: int, sites: Sequence[int], arrays: Floats) -> NDArray[np.float64]:
        return np.array([[site, number * arrays.sum()] for site in sites], np.float64)

    def logits(self, arrays: Floats, records: range) -> Floats:
        return np.stack([np.full(3, arrays.sum() + record, np.float32) for record in records])

    def features(self, windows: range) -> Floats:
        return np.array([[window, 2 * window] for window in windows], np.float32)

    def states(self, windows: range) -> Floats:
        return self.features(windows)


class Killed(Small):
    """As if the system ran out of memory."""

    def _update(self, round: int, site: int, start: Floats) -> Floats:
        if site == BAD:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._update(round, site, start)


class Raising(Small):
    def _update(self, round: int, site: int, start: Floats) -> Floats:
        if site == BAD:
            raise ZeroDivisionError("by site 7") if round == 1 else ModelError("no such layer.", where="here", mend="x")
        return super()._update(round, site, start)


class Endless(Small):
    def _update(self, round: int, site: int, start: Floats) -> Floats:
        while site == BAD:
            time.sleep(0.05)
        return super()._update(round, site, start)


def small(recipe: Recipe, store: Store) -> Small:
    return Small(store)


def killed(recipe: Recipe, store: Store) -> Small:
    return Killed(store)


def raising(recipe: Recipe, store: Store) -> Small:
    return Raising(store)


def endless(recipe: Recipe, store: Store) -> Small:
    return Endless(store)


def unbuilt(recipe: Recipe, store: Store) -> Small:
    raise ModelError("the weights lack x.", where="base", mend="copy it again.")


def recipe(make: Make) -> Recipe:
    training = {"rounds": 1, "expected_batch": 1, "learning_rate": 0.1}
    model = {"base": "none", "sha256": "0" * 64}
    raw = {"format": 1, "name": "small", "task": {"labels": ["a", "b"]}, "model": model, "training": training}
    return Recipe(Plan.model_validate(raw), None, make=make)


def store(num_sites: int = 20) -> Store:
    """One record of one token at each site."""
    every, nothing = np.arange(num_sites, dtype=np.int32), np.zeros(0, np.int32)
    edges = np.arange(num_sites + 1)
    part = Part(every, np.zeros_like(every), edges, np.ones_like(every))
    none = Part(nothing, nothing, np.zeros(num_sites + 1, np.int64), np.zeros_like(every))
    names = np.array([f"site-{index}".encode() for index in range(num_sites)])
    return Store(100 + every, edges, edges, every, part, none, names, num_sites, 0)


def run(seed: int = 0, num_sites: int = 20) -> Run:
    ones = np.ones(num_sites)
    return Run(seed, "unit", 1, ones, ones, ones.astype(np.int64))
