"""One request in, one reply out: what a site answers, what it never answers, and what leaves it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.ledger import Ledger
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.errors import Code, PrivetError
from privet.common.messages import FinishBody, Request, TrainBody, to_record
from privet.common.privacy.noise import SecureNoise, SeededNoise
from tests.client.agent_bench import ROWS, Bench, SeededAgent, payload, site_of
from tests.tiny_models import tiny_base, tiny_plan


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return tiny_plan(base, training={"rounds": 3, "local_steps": 2, "expected_batch": 5})


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
    assert payload(again) == payload(first)
    bench.restart()
    assert payload(bench.train()) == payload(first)
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


def test_a_process_that_was_not_offered_the_plan_does_not_train(bench: Bench) -> None:
    """A request can have lain at the server from before this process started, and its ledger may be another one now."""
    bench.offer()
    bench.agent = bench.fresh()
    assert bench.train().code is Code.UNKNOWN_PLAN
    assert not bench.ledger.events()
    finish = Request(FinishBody(plan_digest=bench.plan.digest))
    assert bench.agent.answer(finish, SecureNoise()).code is Code.OK  # the end needs no offer
    bench.offer()
    assert bench.train().code is Code.OK


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
        with Ledger.open(bench.path) as reader:
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
        site_of(folder, rows)
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


def test_every_field_that_leaves_is_on_the_list(tmp_path: Path, base: Path) -> None:
    """The whole record of each reply, down to its keys."""
    training = {"rounds": 3, "local_steps": 2, "expected_batch": 5, "train_fraction": 0.5}
    plan = tiny_plan(base, training=training, evaluation={"release": "per_class"})
    bench = Bench(tmp_path, plan, base, federation__tiny__release=("update", "per_class"))
    left: set[str] = set()
    for reply in (bench.offer(), bench.train(1), bench.train(7), bench.evaluate(1)):
        record = to_record(reply)
        left |= set(record)
        text = json.loads(str(record["privet"]["body"]))
        left |= {f"body.{key}" for key in text}
        left |= {f"body.statement.{key}" for key in text["statement"] or {}}
        left |= {f"privet.{key}" for key in record["privet"]}
        left |= {f"arrays.{key}" for key in record.get("arrays", {})}
        left |= {f"listing.{name}" for name, _shape in json.loads(str(record["privet"].get("arrays", "[]")))}
    body = {"kind", "code", "plan_digest", "round", "statement", "head"}
    arrays = {"head.weight", "head.bias", "counts"}
    allowed = {"privet", "privet.body", "privet.arrays", "arrays", "arrays.flat"}
    allowed |= {f"body.{name}" for name in body} | {f"listing.{name}" for name in arrays}
    statement = {
        *("accountant", "advantage", "declared_weight", "delta", "epsilon", "epsilon_person", "epsilon_replace"),
        *("evaluation", "expected_batch", "format", "guarantee", "local_steps", "max_grad_norm", "max_per_person"),
        *("max_records", "mechanism", "mu", "mu_meaning", "noise_multiplier", "reason", "released", "rounds"),
        *("sample_rate", "sampling", "trade_off", "train_fraction", "true_positive_bound", "unit"),
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
    assert payload(replies[0]) == payload(replies[1])
