"""A server that asks for anything: nothing trains outside the approved horizon, nothing raises, no code tells."""

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.client import agent as agent_room
from privet.client import evaluation, preparation
from privet.client.training import RoundTrainer
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import (
    COUNTS,
    EvaluateBody,
    FinishBody,
    OfferBody,
    Reply,
    Request,
    TrainBody,
    content_digest,
    to_record,
)
from privet.common.privacy.noise import SecureNoise
from tests.client import agent_bench
from tests.client.agent_bench import ROWS, Bench
from tests.tiny_models import tiny_plan

RELEASED = {"federation__tiny__release": ("update", "confusion")}


@pytest.fixture(scope="module")
def plan(base: Path) -> Plan:
    return measured(base)


def measured(base: Path, kind: str = "head") -> Plan:
    training: dict[str, Any] = {"rounds": 3, "local_steps": 1, "expected_batch": 5, "train_fraction": 0.7}
    evaluation = {"release": "confusion", "every": 2}
    return tiny_plan(base, training=training, evaluation=evaluation, method={"kind": kind})


_BUILT: dict[str, tuple[RoundTrainer, dict[str, Any]]] = {}


@contextmanager
def bench_of(plan: Plan, base: Path, rows: list[tuple[str, str, str]] = ROWS, **changes: Any) -> Iterator[Bench]:
    """In a folder of its own, with one model a plan: hypothesis runs a test's body many times."""

    def built(plan: Plan, folder: Path, **_: object) -> RoundTrainer:
        if plan.digest not in _BUILT:
            made = RoundTrainer(plan, folder)
            _BUILT[plan.digest] = made, made.classifier.read()
        trainer, initial = _BUILT[plan.digest]
        trainer.classifier.write(initial)
        return trainer

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for room in (preparation, agent_bench):
            patch.setattr(room, "RoundTrainer", built)
        made = Bench(Path(folder), plan, base, rows, **RELEASED | changes)
        try:
            yield made
        finally:
            made.close()


# Plans

HOSTILE: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            -1, 0, 1, 2**31, 2**63, 10**30, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, True, None,
            "", "x" * 5000, [], {}, [[]], "\u202e", "\x1b[2J", "fedavg", "ffa", "head", "dense", "site", "none", "best",
            "confusion", "sites",
            ["query", "dense"], ["output.dense"], {"query": 1}, "__class__", "../../etc/passwd", "package:os", "0" * 64,
        ]
    ),
    st.integers(-5, 10**7),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.text(max_size=5), max_size=4),
)  # fmt: skip


@st.composite
def hostile_plans(draw: st.DrawFn, honest: dict[str, Any]) -> dict[str, Any]:
    """An honest plan with a few of its values, keys or tables exchanged for something else."""
    raw = copy.deepcopy(honest)
    for _ in range(draw(st.integers(1, 4))):
        table: Any = raw
        while True:
            key = draw(st.sampled_from(sorted(table)))
            if not isinstance(table[key], dict) or not table[key] or draw(st.integers(0, 9)) == 0:
                break
            table = table[key]
        action = draw(st.sampled_from(["set", "set", "set", "remove", "add"]))
        if action == "remove":
            del table[key]
        else:
            table[key if action == "set" else draw(st.text(max_size=8))] = copy.deepcopy(draw(HOSTILE))
        if not raw:
            break
    return raw


def offered(bench: Bench, text: str, digest: str) -> Reply:
    body = OfferBody.model_construct(kind="offer", plan=text, plan_digest=digest, adapter_digest="0" * 64, head=None)
    return bench.agent.answer(Request(body), SecureNoise())


def test_five_hundred_plans_reserve_nothing_without_the_operator(plan: Plan, base: Path) -> None:
    """Each is refused, or lies pending; none raises, trains, or keeps the invited plan from being read."""
    honest = json.loads(plan.canonical())
    with bench_of(plan, base, policy__approve="ask") as bench:

        @settings(max_examples=500, deadline=None)
        @given(hostile_plans(honest), st.booleans())
        def ask(raw: dict[str, Any], named_right: bool) -> None:
            text = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            reply = offered(bench, text, content_of(text) if named_right else plan.digest)
            assert reply.code in {Code.BAD_REQUEST, Code.PENDING, Code.REFUSED_POLICY, Code.REFUSED_BUDGET}
            assert not reply.arrays
            assert reply.body.statement is None

        ask()
        assert not bench.ledger.events()
        assert all(row.admission.decision != "approved" for row in bench.ledger.plans())
        assert bench.offer().code is Code.PENDING
        assert bench.ledger.committed("tiny").epsilon == 0


def content_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def test_a_plan_of_another_federation_is_refused_by_this_one_s_agent(plan: Plan, base: Path) -> None:
    """A server spends its own share: it cannot offer a plan in the name of another federation of the site."""
    other = Plan.model_validate_json(json.dumps(json.loads(plan.canonical()) | {"name": "other"}))
    table = {"address": "localhost:2", "ca": Path("ca"), "key": Path("k"), "epsilon": 4.0, "delta": 5e-6}
    half: dict[str, Any] = {"federation__tiny__epsilon": 4.0, "federation__tiny__delta": 5e-6}
    with bench_of(plan, base, federation__other=table, **half) as bench:
        assert bench.offer(other).code is Code.REFUSED_POLICY
        assert not bench.ledger.plans()
        neighbour = agent_room.Agent(bench.site, "other", bench.agent._records, bench.ledger, lambda *_: None)
        bench.agent, mine = neighbour, bench.agent
        assert bench.offer(other).code is Code.OK
        bench.agent = mine
        assert bench.train(digest=other.digest).code is Code.UNKNOWN_PLAN
        assert bench.evaluate(digest=other.digest).code is Code.UNKNOWN_PLAN
        finish = Request(FinishBody(plan_digest=other.digest))
        assert bench.agent.answer(finish, SecureNoise()).code is Code.UNKNOWN_PLAN
        assert not bench.agent.finished


# Rounds

VALUES = st.sampled_from([0.0, 1.0, -1.0, 1e4, -1e4, 1e-45, 3e38, math.nan, math.inf, 2e4])
ACTIONS = st.tuples(
    st.sampled_from(["train", "train", "evaluate", "finish", "unknown", "restart"]),
    st.sampled_from([1, 1, 2, 2, 3, 4, 5, 999_999]),
    st.sampled_from([1, 2, 3, 4, 1_000_000]),
    VALUES,
    st.sampled_from(["all", "one", "shape", "extra", "missing"]),
)


def weights(bench: Bench, value: float, how: str) -> dict[str, np.ndarray]:
    arrays = {name: array.copy() for name, array in bench.arrays().items()}
    if how == "all":
        arrays = {name: np.full_like(array, value) for name, array in arrays.items()}
    elif how == "one":
        arrays["head.weight"][0, 0] = value
    elif how == "shape":
        arrays["head.weight"] = arrays["head.weight"][:, :-1]
    elif how == "extra":
        arrays["encoder.layer.0.attention.self.query.lora_A.weight"] = np.zeros((8, 32), np.float32)
    else:
        del arrays["head.bias"]
    return arrays


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=6, max_size=14))
def test_any_conversation_trains_each_round_once_and_none_outside_the_horizon(
    actions: list[tuple[str, int, int, float, str]], plan: Plan, base: Path
) -> None:
    """Against a model of what a site may answer, with the work that is really done counted."""
    worked: list[tuple[str, int]] = []
    done: dict[tuple[str, int], str] = {}
    with bench_of(plan, base) as bench, pytest.MonkeyPatch.context() as patch:
        genuine_update, genuine_counts = RoundTrainer.update, evaluation.counts

        def update(self: RoundTrainer, arrays: Any, examples: Any, round: int, *rest: Any) -> Any:
            worked.append(("train", round))
            return genuine_update(self, arrays, examples, round, *rest)

        def counts(*args: Any) -> Any:
            worked.append(("evaluate", 0))
            return genuine_counts(*args)

        patch.setattr(RoundTrainer, "update", update)
        patch.setattr(agent_room, "counts", counts)
        assert bench.offer().code is Code.OK
        for kind, number, after, value, how in actions:
            if kind == "restart":
                bench.restart()
                bench.told.clear()
                continue
            if kind in ("finish", "unknown"):
                digest = plan.digest if kind == "finish" else "f" * 64
                ends = FinishBody(plan_digest=digest)
                starts = TrainBody(plan_digest=digest, round=number)
                expected = Code.OK if kind == "finish" else Code.UNKNOWN_PLAN
                for asked in (ends,) if kind == "finish" else (ends, starts):
                    assert bench.agent.answer(Request(asked), SecureNoise()).code is expected
                continue
            arrays = weights(bench, value, how)
            body: TrainBody | EvaluateBody = (
                TrainBody(plan_digest=plan.digest, round=number)
                if kind == "train"
                else EvaluateBody(plan_digest=plan.digest, round=number, after=after)
            )
            request, before = Request(body, arrays), len(worked)
            reply = bench.agent.answer(request, SecureNoise())
            sound = how in ("all", "one") and abs(value) <= 1e4
            horizon = plan.training.horizon if kind == "train" else plan.num_evaluations
            if not sound:
                expected = Code.BAD_REQUEST
            elif number > horizon:
                expected = Code.OUTSIDE_HORIZON
            elif done.setdefault((kind, number), request.sha256) != request.sha256:
                expected = Code.ALTERED_REQUEST
            else:
                expected = Code.OK
            assert reply.code is expected, (kind, number, how, value, bench.told)
            if expected is Code.OK:
                assert set(reply.arrays) == ({"head.weight", "head.bias"} if kind == "train" else {COUNTS})
                assert all(np.isfinite(array).all() for array in reply.arrays.values())
            else:
                assert not reply.arrays
                assert len(worked) == before
        assert len(worked) == len(done) == len(bench.ledger.events())
        assert sorted(number for kind, number in worked if kind == "train") == sorted(
            number for kind, number in done if kind == "train"
        )


# Neighbours

PLANTED = st.sampled_from(
    [
        ("", "calm", "p3"),
        ("fever", "nonsense", "p3"),
        ("x" * 30_000, "urgent", "p3"),
        ("\ud7ff\u202e\x00", "other", "p3"),
        ("the patient has a fever " * 300, "calm", "p3"),
        ("chest pain", "urgent", "p1"),
        ("\U0001f9ec" * 60, "other", "p\u0301"),
    ]
)


@pytest.mark.parametrize("method", ["head", "ffa"])
@settings(max_examples=8, deadline=None)
@given(planted=st.lists(PLANTED, min_size=1, max_size=12), scale=st.sampled_from([1.0, 1e4]), seed=st.integers(0, 99))
def test_codes_shapes_and_sizes_are_those_of_a_neighbour(
    method: str, planted: list[tuple[str, str, str]], scale: float, seed: int, base: Path
) -> None:
    """The same conversation beside data that differs by one unit, by all, or that is empty; weights that overflow."""
    plan = measured(base, method)
    transcripts = []
    for rows in (ROWS, ROWS + planted, planted, []):
        with bench_of(plan, base, rows) as bench:
            random = np.random.default_rng(seed)
            transcript = [outline(bench.offer())]
            prepared = bench.agent._prepared
            assert prepared is not None
            names = prepared.received(1).names
            arrays = {
                name: (scale * random.choice([-1, 1], array.shape)).astype(np.float32)
                for name, array in bench.initial.items()
                if name in names
            }
            for reply in (
                bench.train(1, arrays), bench.train(1, arrays), bench.evaluate(1, 2, arrays),
                bench.evaluate(9, 2, arrays), bench.train(9, arrays), bench.train(2, arrays),
                bench.evaluate(2, 3, arrays),
            ):  # fmt: skip
                transcript.append(outline(reply))
                assert all(np.isfinite(array).all() for array in reply.arrays.values())
            transcripts.append(transcript)
    assert all(transcript == transcripts[0] for transcript in transcripts)


def outline(reply: Reply) -> tuple[object, ...]:
    """All of a reply that is not noise or sealed: its code, statement, arrays' shapes, and the length of its body."""
    shapes = {name: (array.shape, str(array.dtype)) for name, array in reply.arrays.items()}
    return reply.code, reply.body.statement, shapes, len(str(to_record(reply)["privet"]["body"]))


def test_the_digest_of_a_request_covers_all_of_it(plan: Plan) -> None:
    """Otherwise an altered request could pass for the same one."""
    arrays = {"a": np.zeros((2, 3), np.float32)}
    first = content_digest("{}", arrays)
    assert first != content_digest("{} ", arrays)
    assert first != content_digest("{}", {"a": np.zeros((3, 2), np.float32)})
    assert first != content_digest("{}", {"b": arrays["a"]})
    assert first != content_digest("{}", {"a": np.full((2, 3), 1e-45, np.float32)})
