"""A compressed update: of the noised one alone, stored as it leaves, the same bytes whenever it is asked for again."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client import rehearsal as rehearsals
from privet.client.flows import flows
from privet.client.rehearsal import Rehearsals
from privet.client.update_size import update_bytes
from privet.common.adapter import Arrays
from privet.common.audit_log import read
from privet.common.audit_log.entries import Released
from privet.common.compression import coded_bytes, decode, encode
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import Reply, Request, TrainBody, parse_reply, to_record
from privet.common.privacy.noise import SecureNoise, SeededNoise
from privet.common.rehearsal import parse_rehearsal_reply
from tests.client.agent_bench import Bench, SeededAgent, site_of
from tests.client.ledger_cases import make_admission, make_plan, make_site
from tests.client.rehearsal_bench import RoomHere, Server
from tests.tiny_models import tiny_plan

KINDS: tuple[Any, ...] = ("fp16", "int8")


def _plan(base: Path, kind: str) -> Plan:
    return tiny_plan(base, training={"rounds": 3, "local_steps": 2, "expected_batch": 5, "compression": kind})


@pytest.fixture(params=KINDS)
def bench(request: Any, tmp_path: Path, base: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, _plan(base, request.param), base)
    made.offer()
    yield made
    made.close()


def _sent(reply: Reply) -> bytes:
    data: bytes = to_record(reply)["arrays"]["flat"].data
    return data


def test_the_stored_reply_is_what_left_and_leaves_again(bench: Bench) -> None:
    first = bench.train()
    assert first.code is Code.OK
    assert first.coded is not None
    assert not first.arrays  # nothing but the codes
    size = sum(array.size for array in bench.arrays().values())
    kind = bench.plan.training.compression
    assert len(_sent(first)) == first.num_bytes == coded_bytes(kind, size) == update_bytes(bench.plan, bench.base)
    assert _sent(bench.train()) == _sent(first)
    bench.restart()
    assert _sent(bench.train()) == _sent(first)  # though rounding anew would give other codes
    assert _sent(bench.train(round=2)) != _sent(first)
    arrived = parse_reply(to_record(first), compression=kind)
    assert {name: array.shape for name, array in arrived.arrays.items()} == {
        name: array.shape for name, array in bench.arrays().items()
    }
    log = read(bench.folder / f"{bench.site.data.id}.audit.jsonl")
    told = [line.entry() for line in log.lines]
    assert next(e.num_bytes for e in told if isinstance(e, Released) and e.what == "update") == first.num_bytes


def test_codes_and_scales_are_of_the_noised_update_and_nothing_else(bench: Bench) -> None:
    """The codes are exactly those of the trainer's noised update, rounded by a stream of its own: the noise is drawn as
    without compression, and no value before it has a part."""
    agent = SeededAgent(bench.site, bench.plan.name, bench.agent._records, bench.ledger, lambda *_: None)
    bench.agent = agent
    bench.offer()
    arrays = bench.arrays()
    reply = agent.answer(Request(TrainBody(plan_digest=bench.plan.digest, round=1), arrays), SeededNoise(9))
    prepared, row = agent._prepared, bench.ledger.plan(bench.plan.digest)
    assert prepared is not None
    assert row is not None
    assert row.admission.event is not None
    noised = prepared.trainer.update(arrays, prepared.train, 1, row.admission.event, SeededNoise(9))
    kind: Any = bench.plan.training.compression
    assert reply.coded == encode(kind, noised, SeededNoise(9))
    assert reply.coded is not None
    for name, array in decode(reply.coded).items():
        assert (
            np.abs(array - noised[name]).max() <= np.abs(np.concatenate([*map(np.ravel, noised.values())])).max() / 127
        )


def test_an_update_that_overflowed_has_the_same_code_and_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came out of the records shows in no code and no length."""
    sound = bench.train()
    assert bench.agent._prepared is not None

    def overflowed(*_: Any) -> Arrays:
        return {name: np.full(array.shape, np.inf, np.float32) for name, array in bench.arrays().items()}

    monkeypatch.setattr(bench.agent._prepared.trainer, "update", overflowed)
    reply = bench.train(round=2)
    assert (reply.code, reply.num_bytes) == (sound.code, sound.num_bytes)
    assert bench.ledger.events()[-1].state == "stored"


def test_the_operator_reads_how_and_how_much() -> None:
    plain = make_plan()
    raw = plain.model_dump(mode="json")
    for kind, words in (("fp16", "16-bit numbers"), ("int8", "8-bit numbers that are rounded at random")):
        plan = Plan.model_validate(raw | {"training": raw["training"] | {"compression": kind}})
        (update, *_) = flows(plan, make_admission(plan), make_site(), update_bytes=1_234)
        assert words in update.content
        assert "noised numbers only" in update.content
        assert update.size == "1,234 bytes"
    (update, *_) = flows(plain, make_admission(plain), make_site(), update_bytes=1_234)
    assert "bit numbers" not in update.content


@pytest.mark.parametrize("kind", KINDS)
def test_a_rehearsal_sends_as_many_bytes(
    tmp_path: Path, base: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsals, "Apart", RoomHere)
    plan = _plan(base, kind)
    server = Server(plan, base)
    site = site_of(tmp_path, federation__tiny__rehearsal=True, federation__tiny__plan=plan.digest)
    rehearsing = Rehearsals(site, plan.name, lambda *_: None, threading.Event())
    assert rehearsing.answer(server.offer()).body.code is Code.OK
    reply = rehearsing.answer(server.round(1))
    rehearsing.close()
    arrived = parse_rehearsal_reply(to_record(reply), compression=kind)
    assert arrived.num_bytes == reply.num_bytes == update_bytes(plan, base)
    assert set(arrived.arrays) == set(server.arrays())


def test_a_site_rounds_by_its_own_secure_source(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    real = SecureNoise.uniform

    def uniform(self: SecureNoise, n: int) -> Any:
        drawn.append(n)
        return real(self, n)

    monkeypatch.setattr(SecureNoise, "uniform", uniform)
    bench.train()
    assert len(drawn) == (bench.plan.training.compression == "int8")
