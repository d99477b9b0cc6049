"""What a judging site answers is the same for neighbouring data, none among them, under every task and release; it is
charged before anything is computed, and draws once for a number, whatever is asked again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.client.evaluation import counts, exact_cells
from privet.common.config import Plan
from privet.common.errors import Code
from privet.common.messages import COUNTS, Reply
from tests.client.agent_bench import Bench, payload, site_of
from tests.client.token_cases import TYPES, token_plan
from tests.tiny_models import tiny_base, tiny_plan

SOUND = {
    "classification": [("a fever", "calm", "p1"), ("a rash", "urgent", "p1"), ("a rash", "other", "p2")],
    "multilabel": [("a fever", "calm;urgent", "p1"), ("a rash", "", "p1"), ("a rash", "other", "p2")],
    "tokens": [("a fever", "O B-sign", "p1"), ("my card", "O B-card", "p1"), ("a rash", "O O", "p2")],
}
FAULTY = [
    ("a fever", "nobody's", "q1"),
    ("fever " * 3000, "calm;", "q2"),
    ("\u200b", "B-sign", "q3"),
    ("a fever", "O B-sign I-sign", "q4"),
    ("¡ﷺ" * 40, ";;", "q5"),
    ("a fever", "O B-", "q6"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def _plan(base: Path, kind: str, release: str) -> Plan:
    tables: dict[str, Any] = {
        "training": {"rounds": 3, "local_steps": 1, "expected_batch": 2, "train_fraction": 0.5},
        "evaluation": {"release": release, "every": 1},
    }
    if kind == "tokens":
        return token_plan(base, method="head", **tables)
    return tiny_plan(base, task={"kind": kind, "max_length": 16, "buckets": [16]}, **tables)


def _bench(folder: Path, plan: Plan, base: Path, rows: list[tuple[str, str, str]], *, judges: bool = True) -> Bench:
    folder.mkdir(exist_ok=True)
    release = plan.evaluation.release
    membership = {"evaluate_only": judges, "release": (release,) if judges else ("update", release)}
    settings = {f"federation__tiny__{key}": value for key, value in membership.items()}
    return Bench(folder, plan, base, rows=rows, **settings)


def _arrays(bench: Bench) -> dict[str, np.ndarray]:
    prepared = bench.agent._prepared
    assert prepared is not None
    return {name: bench.initial[name] for name in prepared.received(1).names}


def _said(reply: Reply) -> tuple[Code, int, dict[str, tuple[int, ...]]]:
    return reply.code, reply.body.round, {name: array.shape for name, array in reply.arrays.items()}


@pytest.mark.parametrize(
    ("kind", "release", "cells"),
    [
        ("classification", "confusion", 9),
        ("multilabel", "accuracy", 4),
        ("multilabel", "per_class", 12),
        ("tokens", "accuracy", 3),
        ("tokens", "per_class", 3 * len(TYPES)),
    ],
)
def test_no_record_and_no_lack_of_records_shows_in_a_code_or_a_shape(
    base: Path, tmp_path: Path, kind: str, release: str, cells: int
) -> None:
    plan, sound = _plan(base, kind, release), SOUND[kind]
    for judges, datasets in ((True, ([], sound + FAULTY, sound)), (False, ([], sound[:1]))):
        bench, heard = _bench(tmp_path / str(judges), plan, base, [], judges=judges), []
        for number, rows in enumerate(datasets, start=1):
            site_of(bench.folder, rows)  # the file anew; the site and its ledger stay
            bench.agent = bench.fresh()
            offered, asked = bench.offer(), bench.evaluate(number, number, _arrays(bench))
            heard.append((_said(offered), _said(asked)))
        bench.close()
        assert not [text for told, text in bench.told if told == "error"]
        assert heard == [((Code.OK, 0, {}), (Code.OK, n + 1, {COUNTS: (cells,)})) for n in range(len(datasets))]


@pytest.mark.parametrize("kind", ["multilabel", "tokens"])
def test_it_is_charged_before_anything_is_computed_and_draws_once(
    base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _bench(tmp_path, _plan(base, kind, "per_class"), base, SOUND[kind])
    bench.offer()
    arrays = _arrays(bench)
    states = []

    def seen(*given: Any) -> Any:
        states.append([event.state for event in bench.ledger.events()])
        if len(states) == 2:
            raise RuntimeError("patient p1")
        return counts(*given)

    monkeypatch.setattr("privet.client.agent.counts", seen)
    first = bench.evaluate(1, 1, arrays)
    assert first.code is Code.OK
    assert payload(bench.evaluate(1, 1, arrays)) == payload(first)
    shifted = {name: array + np.float32(1e-3) for name, array in arrays.items()}
    for other in (bench.evaluate(1, 2, arrays), bench.evaluate(1, 1, shifted)):  # the same number, another question
        assert (other.code, other.arrays) == (Code.ALTERED_REQUEST, {})
    failed = bench.evaluate(2, 2, arrays)
    assert (failed.code, failed.arrays, failed.body.statement) == (Code.UNAVAILABLE, {}, None)
    assert "p1" not in failed.body.model_dump_json(exclude={"head"})
    assert bench.evaluate(2, 2, arrays).code is Code.ROUND_LOST  # spent: no second draw
    bench.restart()
    assert payload(bench.evaluate(1, 1, arrays)) == payload(first)
    assert bench.evaluate(2, 2, arrays).code is Code.ROUND_LOST
    assert states == [["reserved"], ["stored", "reserved"]]
    assert bench.train(1, arrays).code is Code.OUTSIDE_HORIZON
    bench.close()


@pytest.mark.parametrize("kind", ["multilabel", "tokens"])
def test_a_text_that_the_model_fails_on_changes_no_code(
    base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It adds nothing, and what the others add is the same to the last bit."""
    from transformers import BertModel

    fatal = "rash rash rash"  # no rehearsal has three equal ids in a row but the last of the vocabulary
    bench = _bench(tmp_path, _plan(base, kind, "per_class"), base, SOUND[kind])
    bench.offer()
    arrays, prepared = _arrays(bench), bench.agent._prepared
    assert prepared is not None
    word = prepared.trainer.tokenizer.convert_tokens_to_ids("rash")
    genuine: Any = BertModel.forward

    def forward(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        same = input_ids == word
        if (same[:, :-2] & same[:, 1:-1] & same[:, 2:]).any():
            raise RuntimeError("patient p9")
        return genuine(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", forward)
    before = exact_cells(prepared.trainer, arrays, prepared.validation, "per_class")
    first = bench.evaluate(1, 1, arrays)
    label = {"multilabel": "calm", "tokens": "B-sign I-sign I-sign"}[kind]
    site_of(bench.folder, [*SOUND[kind], (fatal, label, "p9")])
    bench.agent = bench.fresh()
    bench.offer()
    second = bench.evaluate(2, 2, arrays)
    assert (second.code, _said(second)[2]) == (Code.OK, _said(first)[2])
    assert not [text for told, text in bench.told if told == "error"]
    prepared = bench.agent._prepared
    assert prepared is not None
    assert prepared.validation.units.num_units == 3
    after = exact_cells(prepared.trainer, arrays, prepared.validation, "per_class")
    np.testing.assert_array_equal(after, before)
    bench.close()
