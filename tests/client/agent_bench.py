"""An agent on a ledger, and the requests of an honest server: for tests that talk to a site."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from privet.client.agent import Agent
from privet.client.data import load_records
from privet.client.ledger import Ledger
from privet.client.preparation import Prepared
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.config import Plan, Site
from privet.common.errors import Code
from privet.common.messages import EvaluateBody, OfferBody, Reply, Request, TrainBody, pack
from privet.common.privacy.noise import NoiseSource, SecureNoise

ROWS = [("the patient has a fever", "calm", "p1"), ("chest pain", "urgent", "p1"), ("a rash", "other", "p2")]


def site_of(folder: Path, rows: list[tuple[str, str, str]] = ROWS, **changes: Any) -> Site:
    with (folder / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "patient"), *rows])
    raw: dict[str, Any] = {
        "format": 1,
        "name": "north",
        "data": {
            "id": "0" * 32,
            "source": folder / "notes.csv",
            "text": "text",
            "label": "label",
            "unit": "patient",
        },
        "budget": {"epsilon": 8.0, "delta": 1e-5, "declared_units": 50},
        "policy": {"approve": "first-use"},
        "federation": {
            "tiny": {
                "address": "localhost:1",
                "ca": folder / "ca.crt",
                "key": folder / "k",
                "epsilon": 8.0,
                "delta": 1e-5,
            }
        },
    }
    for path, value in changes.items():
        table = raw
        *parents, last = path.split("__")
        for name in parents:
            table = table[name]
        table[last] = value
    return Site.model_validate(raw)


class SeededAgent(Agent):
    """Takes noise that can be drawn again: a real agent has no such door."""

    @staticmethod
    def sound(noise: NoiseSource) -> NoiseSource:
        return noise


def payload(reply: Reply) -> bytes:
    """What is stored and sent again: all but the ledger's head, which is sealed anew on every reply."""
    return pack(Reply(reply.body.model_copy(update={"head": None}), reply.arrays))


class Bench:
    """An agent on a ledger, and the requests of an honest server."""

    def __init__(
        self, folder: Path, plan: Plan, base: Path, rows: list[tuple[str, str, str]] = ROWS, **changes: Any
    ) -> None:
        self.folder, self.plan, self.base = folder, plan, base
        self.site = site_of(folder, rows, **changes)
        self.path = folder / f"{self.site.data.id}.sqlite"
        self.told: list[tuple[str, str]] = []
        self.ledger = Ledger.open(self.path, agent=True)
        self.agent = self.fresh()
        self.initial = RoundTrainer(plan, base).classifier.read()

    def fresh(self) -> Agent:
        records = load_records(self.site, None, allow_empty=True)
        return Agent(self.site, self.plan.name, records, self.ledger, lambda *told: self.told.append(told))

    def restart(self) -> None:
        """A new process; the plan is offered to it again."""
        self.ledger.close()
        self.ledger = Ledger.open(self.path, agent=True)
        self.agent = self.fresh()
        self.offer()

    def offer(self, offered: Plan | None = None, **changes: str) -> Reply:
        plan = offered or self.plan
        body = {
            "plan": plan.canonical(),
            "plan_digest": plan.digest,
            "adapter_digest": adapter.digest(self.initial),
        }
        return self.agent.answer(Request(OfferBody.model_validate(body | changes)), SecureNoise())

    def arrays(self) -> dict[str, np.ndarray]:
        names = {"head.weight", "head.bias"}
        return {name: array for name, array in self.initial.items() if name in names}

    def train(self, round: int = 1, arrays: Any = None, digest: str | None = None) -> Reply:
        body = TrainBody(plan_digest=digest or self.plan.digest, round=round)
        return self.agent.answer(Request(body, self.arrays() if arrays is None else arrays), SecureNoise())

    def evaluate(self, number: int = 1, after: int = 1, arrays: Any = None, digest: str | None = None) -> Reply:
        body = EvaluateBody(plan_digest=digest or self.plan.digest, round=number, after=after)
        return self.agent.answer(Request(body, self.arrays() if arrays is None else arrays), SecureNoise())

    def close(self) -> None:
        self.ledger.close()


def story(
    folder: Path, plan: Plan, base: Path, rows: list[tuple[str, str, str]], released: tuple[str, ...]
) -> tuple[list[tuple[Code, dict[str, tuple[int, ...]]]], Prepared]:
    """Two rounds, each with an evaluation: what a server hears of a site (code, names and shapes of arrays), and what
    the site has prepared."""
    folder.mkdir()
    bench = Bench(folder, plan, base, rows=rows, federation__tiny__release=released)
    heard = [bench.offer()]
    prepared = bench.agent._prepared
    assert prepared is not None
    arrays = {name: bench.initial[name] for name in prepared.received(1).names}
    for number in (1, 2):
        heard += [bench.train(number, arrays), bench.evaluate(number, number, arrays)]
    bench.close()
    assert not [words for kind, words in bench.told if kind == "error"]
    return [(reply.code, {name: array.shape for name, array in reply.arrays.items()}) for reply in heard], prepared
