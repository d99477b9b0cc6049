"""A server that is killed at a chosen moment and started again on its run folder; sites that stay up and remember."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from privet.common.adapter import digest
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.live import Event
from privet.common.messages import COUNTS, EvaluateBody, Request, TrainBody
from privet.common.tasks.classification import PublicMetrics
from privet.server.resume import choose_run
from privet.server.run_folder import RunFolder
from privet.server.strategy import PrivetStrategy
from tests.server.scripted import SPEC, Clock, ScriptedGrid, Site, initial, record, reply_to

RESUME = "privet server --resume"  # what a server says of how to go on


class Killed(BaseException):
    """Nothing in the code may catch it, but to clean up as a kill would not."""


@dataclass
class Fuse:
    """Burns down by one at every moment that matters; at zero the server is gone."""

    left: float = float("inf")
    burnt: int = 0

    def burn(self) -> None:
        self.burnt += 1
        self.left -= 1
        if self.left == 0:
            raise Killed


def _seeded(*parts: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(parts).encode()).digest()))


@dataclass
class Keeper(Site):
    """A site with a ledger: the same bytes again get the stored reply, other bytes for a known number are refused."""

    fuse: Fuse = field(default_factory=Fuse)
    ledger: dict[tuple[str, int], tuple[str, dict[str, Any]]] = field(default_factory=dict)
    altered: int = 0
    replayed: int = 0

    def __post_init__(self) -> None:
        self.train = self.evaluate = _kept

    def compute(self, request: Request) -> dict[str, Any]:
        """Noise and all, a function of name and request."""
        random = _seeded(self.name, request.sha256)
        if isinstance(request.body, EvaluateBody):
            right = float(random.integers(20, 80))
            return {COUNTS: np.array([right, 100 - right], np.float32)}
        return {
            entry.name: random.normal(size=entry.shape).astype(np.float32)
            for entry in SPEC.entries
            if entry.name in request.arrays
        }


def _kept(site: Site, message: Message, request: Request) -> list[Message]:
    assert isinstance(site, Keeper)
    body = request.body
    assert isinstance(body, TrainBody | EvaluateBody)
    site.fuse.burn()  # before it arrives
    key = (body.kind, body.round)
    if key in site.ledger and site.ledger[key][0] != request.sha256:
        site.altered += 1
        return [reply_to(message, record(body.plan_digest, body.round, code=Code.ALTERED_REQUEST))]
    site.replayed += key in site.ledger
    site.ledger.setdefault(key, (request.sha256, site.compute(request)))
    site.fuse.burn()  # stored, and the reply lost
    return [reply_to(message, record(body.plan_digest, body.round, site.ledger[key][1]))]


def judge_by_content(fuse: Fuse) -> Callable[[Mapping[str, Any]], PublicMetrics]:
    """An evaluator whose accuracy is a function of the arrays."""

    def evaluate(arrays: Mapping[str, Any]) -> PublicMetrics:
        fuse.burn()
        return PublicMetrics(float(_seeded(digest(arrays)).random()), 0.5, 1.0, 4, {"p": 1.0}, [[1]])

    return evaluate


class House:
    """The server's runs folder, its sites, and one clock. Every durable write is a moment to be killed at, twice."""

    def __init__(
        self, patch: pytest.MonkeyPatch, folder: Path, the_plan: Plan, sites: Sequence[Keeper], *, public: bool = True
    ) -> None:
        self.runs, self.plan, self.sites, self.fuse, self._public = folder / "runs", the_plan, sites, Fuse(), public
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        for room in ("strategy", "quorum", "roster", "progress"):
            patch.setattr(f"privet.server.{room}.time", self.clock)
        patch.setattr(os, "fsync", lambda _descriptor: self.fuse.burn())
        count = itertools.count()

        def new(runs: Path, plan: Plan, resume: str = "") -> RunFolder:
            return RunFolder(runs / f"{plan.name}-20261122T{next(count):06d}Z", plan, resume=resume)

        patch.setattr(RunFolder, "new", staticmethod(new))
        for site in sites:
            site.fuse = self.fuse

    def serve(
        self, *, resume: bool = False, kill_after: float = float("inf"), finish: bool = False
    ) -> PrivetStrategy | None:
        """One life of the server: the strategy at the end of its rounds, or None where it was killed."""
        self.fuse.left = kill_after
        try:
            with self.start(resume=resume) as (strategy, folder):
                strategy.start(ScriptedGrid(self.sites))
                folder.record({"event": "sites_told"})
                if finish:
                    folder.record({"event": "finished"})
                return strategy
        except Killed:
            return None
        finally:
            self.fuse.left = float("inf")

    @contextmanager
    def start(self, *, resume: bool = False) -> Iterator[tuple[PrivetStrategy, RunFolder]]:
        going = choose_run(self.runs, self.plan, resume=resume, command=RESUME)
        if going is None:
            folder = RunFolder.new(self.runs, self.plan, resume=RESUME)
        else:
            folder = RunFolder(going.path, self.plan, again=True, resume=RESUME)

        def listen(event: Event) -> None:
            folder.record({"time": 1.0, **event})
            self.events.append(event)

        if going is not None and going.fault:
            listen({"event": "warning", "text": going.fault})
        names = {node: site.name for node, site in enumerate(self.sites, start=11)}
        try:
            yield (
                PrivetStrategy(
                    self.plan,
                    SPEC,
                    initial(),
                    name_of=names.__getitem__,
                    pause=self.clock.pause,
                    wait=1000.0,
                    on_event=listen,
                    evaluate=judge_by_content(self.fuse) if self._public else None,
                    keep=folder.keep,
                    asking=folder.ask,
                    progress=None if going is None else going.progress,
                ),
                folder,
            )
        finally:
            folder.close()

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def folder(self) -> Path:
        (found,) = self.runs.iterdir()
        return found


def outcome(strategy: PrivetStrategy, sites: Sequence[Keeper]) -> dict[str, Any]:
    """All that must not depend on whether a server was killed."""
    return {
        "arrays": digest(strategy.state.arrays),
        "completed": strategy.completed,
        "standing": (strategy.judge.standing.best, strategy.judge.standing.improved, strategy.judge.standing.waited),
        "history": [{key: value for key, value in row.items() if key != "seconds"} for row in strategy.history],
        "statements": strategy.roster.statements,
        "ledgers": [{key: sha for key, (sha, _) in site.ledger.items()} for site in sites],
        "altered": [site.altered for site in sites],
    }
