"""One request in, one reply out: what a site answers, what it never answers, and what leaves it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.agent import Agent
from privet.client.data import load_records
from privet.client.ledger import Ledger
from privet.client.training import RoundTrainer
from privet.common import adapter
from privet.common.config import Plan, Site
from privet.common.errors import Code, PrivetError
from privet.common.messages import FinishBody, OfferBody, Reply, Request, TrainBody, pack, to_record
from privet.common.privacy.noise import NoiseSource, SecureNoise, SeededNoise
from tests.tiny_models import tiny_base, tiny_plan

ROWS = [("the patient has a fever", "calm", "p1"), ("chest pain", "urgent", "p1"), ("a rash", "other", "p2")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return tiny_plan(base, training={"rounds": 3, "local_steps": 2, "expected_batch": 5})


def _site(folder: Path, rows: list[tuple[str, str, str]] = ROWS, **changes: Any) -> Site:
    import csv

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
    """For tests alone: takes noise that can be drawn again."""

    @staticmethod
    def sound(noise: NoiseSource) -> NoiseSource:
        return noise


class Bench:
    """An agent on a ledger, and the requests of an honest server."""

    def __init__(self, folder: Path, plan: Plan, base: Path, **changes: Any) -> None:
        self.folder, self.plan, self.base = folder, plan, base
        self.site = _site(folder, **changes)
        self.told: list[tuple[str, str]] = []
        self.ledger = Ledger.open(folder / "ledger.sqlite", agent=True)
        self.agent = self.fresh()
        self.initial = RoundTrainer(plan, base).classifier.read()

    def fresh(self) -> Agent:
        records = load_records(self.site, None, allow_empty=True)
        return Agent(self.site, records, self.ledger, lambda kind, text: self.told.append((kind, text)))

    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.folder / "ledger.sqlite", agent=True)
        self.agent = self.fresh()

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


@pytest.fixture
def bench(tmp_path: Path, plan: Plan, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, plan, base)
    yield made
    made.ledger.close()


def test_an_approved_plan_is_trained_stored_and_replayed(bench: Bench) -> None:
    offered = bench.offer()
    assert offered.code is Code.OK
    assert offered.body.statement is not None
    assert 7.9 < (offered.body.statement.epsilon or 0) <= 8.0
    first = bench.train()
    assert first.code is Code.OK
    assert set(first.arrays) == {"head.weight", "head.bias"}
    again = bench.train()
    assert pack(again) == pack(first)
    bench.restart()
    assert pack(bench.train()) == pack(first)
    assert [event.state for event in bench.ledger.events()] == ["stored"]


def test_an_altered_request_for_an_answered_round_is_refused(bench: Bench) -> None:
    bench.offer()
    bench.train()
    other = bench.arrays()
    other["head.bias"] = other["head.bias"] + np.float32(0.1)
    assert bench.train(arrays=other).code is Code.ALTERED_REQUEST
    assert len(bench.ledger.events()) == 1


def test_nothing_is_trained_outside_the_approved_horizon(bench: Bench) -> None:
    assert bench.train().code is Code.UNKNOWN_PLAN
    bench.offer()
    assert bench.train(round=4).code is Code.OUTSIDE_HORIZON
    assert [bench.train(round=n).code for n in (1, 2, 3)] == [Code.OK] * 3
    assert bench.train(round=4).code is Code.OUTSIDE_HORIZON
    assert len(bench.ledger.events()) == 3


def test_a_pending_plan_waits_for_the_operator(tmp_path: Path, plan: Plan, base: Path) -> None:
    bench = Bench(tmp_path, plan, base, policy__approve="ask")
    assert bench.offer().code is Code.PENDING
    assert bench.agent.held is Code.PENDING
    assert bench.train().code is Code.PENDING
    assert any("privet approve" in text for _, text in bench.told)
    assert not bench.ledger.events()
    bench.ledger.close()


def test_a_plan_over_budget_is_refused_and_the_approved_one_goes_on(bench: Bench, base: Path) -> None:
    bench.offer()
    second = tiny_plan(base, training={"rounds": 50, "expected_batch": 5})
    refused = bench.offer(second)
    assert refused.code is Code.REFUSED_BUDGET
    assert refused.body.statement is None
    assert any("epsilon" in text and kind == "refused" for kind, text in bench.told)
    assert bench.agent.held is None
    assert bench.train().code is Code.OK
    assert bench.train(digest=second.digest).code is Code.REFUSED_BUDGET


def test_a_crash_in_training_spends_the_round_and_tells_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer()

    def explode(*_: Any) -> None:
        raise RuntimeError("secret diagnosis of p1")

    with monkeypatch.context() as patch:
        patch.setattr(RoundTrainer, "update", explode)
        reply = bench.train()
    assert reply.code is Code.UNAVAILABLE
    assert "secret" not in str(to_record(reply))
    assert bench.train().code is Code.ROUND_LOST
    assert bench.train(round=2).code is Code.OK
    assert [event.state for event in bench.ledger.events()] == ["reserved", "stored"]


def test_the_reservation_is_durable_before_training_starts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer()
    genuine = RoundTrainer.update
    seen: list[int] = []

    def watch(self: RoundTrainer, *args: Any) -> Any:
        with Ledger.open(bench.folder / "ledger.sqlite") as reader:
            seen.append(len(reader.events()))
        return genuine(self, *args)

    monkeypatch.setattr(RoundTrainer, "update", watch)
    bench.train()
    assert seen == [1]


def test_a_reply_that_could_not_be_stored_is_not_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer()

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Ledger, "store", full)
    reply = bench.train()
    assert reply.code is Code.UNAVAILABLE
    assert not reply.arrays


@pytest.mark.parametrize("fault", ["nan", "huge", "shape", "names", "none"])
def test_unsound_weights_are_refused_before_anything_is_reserved(bench: Bench, fault: str) -> None:
    bench.offer()
    arrays = {name: array.copy() for name, array in bench.arrays().items()}
    match fault:
        case "nan":
            arrays["head.bias"][0] = np.nan
        case "huge":
            arrays["head.bias"][0] = 2e4
        case "shape":
            arrays["head.bias"] = arrays["head.bias"][:-1]
        case "names":
            arrays["encoder.layer.0.attention.self.query.lora_A.weight"] = arrays.pop("head.bias")
        case _:
            arrays = {}
    assert bench.train(arrays=arrays).code is Code.BAD_REQUEST
    assert not bench.ledger.events()


def test_a_plan_whose_text_and_digest_differ_is_refused(bench: Bench) -> None:
    assert bench.offer(plan_digest="0" * 64).code is Code.BAD_REQUEST
    spaced = json.dumps(json.loads(bench.plan.canonical()))
    assert bench.offer(plan=spaced).code is Code.BAD_REQUEST
    assert not bench.ledger.plans()


def test_another_base_or_initial_adapter_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert bench.offer(adapter_digest="0" * 64).code is Code.ADAPTER_MISMATCH
    other = tiny_base(tmp_path / "other", seed=9)
    mismatched = bench.plan.model_copy(
        update={"model": bench.plan.model.model_copy(update={"base": str(other)}), "name": "tiny"}
    )
    fresh = Bench(_made(tmp_path / "fresh"), mismatched, bench.base)
    assert fresh.offer().code is Code.BASE_MISMATCH
    fresh.ledger.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_end_is_heard_only_for_a_plan_that_is_served(bench: Bench) -> None:
    request = Request(FinishBody(plan_digest=bench.plan.digest))
    assert bench.agent.answer(request, SecureNoise()).code is Code.UNKNOWN_PLAN
    assert not bench.agent.finished
    bench.offer()
    assert bench.agent.answer(request, SecureNoise()).code is Code.OK
    assert bench.agent.finished


NEIGHBOURS = {
    "empty": [],
    "no_label": [("a rash", "nonsense", "p1")],
    "one_class": [("a rash", "calm", "p1"), ("no rash", "calm", "p2")],
    "huge_unit": [("the patient has a cough " * 200, "calm", "p1")] * 60,
    "strange": [("\U0001f9ec" * 50 + "\u202e", "calm", "p\u0301"), ("x" * 20000, "urgent", "p9")],
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_codes_do_not_depend_on_records(tmp_path: Path, plan: Plan, base: Path, name: str) -> None:
    """The same conversation on neighbouring data: equal codes, shapes, statements, sizes."""
    transcripts = []
    for number, rows in enumerate((ROWS, NEIGHBOURS[name])):
        folder = _made(tmp_path / f"{number}-data")
        bench = Bench(folder, plan, base)
        _site(folder, rows)
        bench.agent = bench.fresh()
        replies = [bench.offer(), bench.train(1), bench.train(1), bench.train(9), bench.train(2)]
        transcripts.append(
            [
                (reply.code, reply.body.statement, {n: (a.shape, str(a.dtype)) for n, a in reply.arrays.items()})
                for reply in replies
            ]
        )
        assert all(np.isfinite(array).all() for reply in replies for array in reply.arrays.values())
        bench.ledger.close()
    assert transcripts[0] == transcripts[1]


def test_every_field_that_leaves_is_on_the_list(bench: Bench) -> None:
    """The whole record of each reply, down to its keys."""
    left: set[str] = set()
    for reply in (bench.offer(), bench.train(1), bench.train(7)):
        record = to_record(reply)
        left |= set(record)
        body = json.loads(str(record["privet"]["body"]))
        left |= {f"body.{key}" for key in body}
        left |= {f"body.statement.{key}" for key in body["statement"] or {}}
        left |= {f"arrays.{key}" for key in record.get("arrays", {})}
    allowed = {"privet", "arrays", "body.kind", "body.code", "body.plan_digest", "body.round", "body.statement"}
    allowed |= {"arrays.head.weight", "arrays.head.bias"}
    statement = {
        "accountant",
        "advantage",
        "declared_weight",
        "delta",
        "epsilon",
        "epsilon_replace",
        "expected_batch",
        "guarantee",
        "local_steps",
        "max_grad_norm",
        "max_records",
        "noise_multiplier",
        "reason",
        "released",
        "rounds",
        "sample_rate",
        "sampling",
        "true_positive_bound",
        "format",
        "mechanism",
        "unit",
    }
    assert {name for name in left if not name.startswith("body.statement.")} == allowed
    assert {name.removeprefix("body.statement.") for name in left if name.startswith("body.statement.")} <= statement


def test_seeded_noise_makes_the_same_reply_twice_on_two_ledgers(tmp_path: Path, plan: Plan, base: Path) -> None:
    """Also the proof that the agent adds nothing of its own to what the trainer returns."""
    replies = []
    for number in range(2):
        bench = Bench(_made(tmp_path / str(number)), plan, base)
        bench.offer()
        request = Request(TrainBody(plan_digest=plan.digest, round=1), bench.arrays())
        with pytest.raises(PrivetError, match="randomness"):
            bench.agent.answer(request, SeededNoise(1))
        assert not bench.ledger.events()
        bench.agent.__class__ = SeededAgent
        replies.append(bench.agent.answer(request, SeededNoise(1)))
        bench.ledger.close()
    assert pack(replies[0]) == pack(replies[1])
