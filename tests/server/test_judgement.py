"""The best round and the early stop: by what the plan names, with the noise in mind, and across a checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privet.common.adapter import digest
from privet.common.config.plan import EvaluationSpec
from privet.common.methods import State
from privet.common.tasks.classification import PublicMetrics
from privet.server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from privet.server.judgement import Judged, Standing, judged, kept_round
from tests.server.scripted import Scene, Site, initial, plan, scene
from tests.server.test_metrics import evaluated, releasing

BEST = EvaluationSpec(keep="best", patience=2)


def _taken(values: list[tuple[float, float]], spec: EvaluationSpec = BEST) -> list[Standing]:
    """The standings after each of these (accuracy, noise error)."""
    standings = [Standing()]
    for number, (value, error) in enumerate(values, start=1):
        arrays = {"x": np.array([number], np.float32)}
        standings.append(standings[-1].take(Judged(number, value, error), arrays, spec))
    return standings[1:]


# The rule


def test_without_noise_any_gain_counts() -> None:
    found = _taken([(0.5, 0), (0.5, 0), (0.500001, 0), (0.4, 0), (0.45, 0)])
    assert [standing.waited for standing in found] == [0, 1, 0, 1, 2]
    assert [standing.is_over(BEST) for standing in found] == [False] * 4 + [True]
    assert found[-1].best == Judged(3, 0.500001)
    assert found[-1].arrays is not None
    assert found[-1].arrays["x"].tolist() == [3]


def test_a_gain_within_the_noise_is_none() -> None:
    """One standard error of the difference of two noised accuracies: sqrt(0.03^2 + 0.04^2) = 0.05."""
    assert _taken([(0.5, 0.03), (0.549, 0.04)])[-1].waited == 1
    assert _taken([(0.5, 0.03), (0.551, 0.04)])[-1].waited == 0


def test_slow_gains_add_up_and_the_best_is_the_highest() -> None:
    found = _taken([(0.50, 0.03), (0.53, 0.03), (0.56, 0.03)], EvaluationSpec(keep="best", patience=3))
    assert [standing.waited for standing in found] == [0, 1, 0]
    (_, second, _) = found
    assert second.best == Judged(2, 0.53, 0.03)  # kept, though no improvement to be sure of


def test_of_equals_the_earliest_is_kept() -> None:
    found = _taken([(0.5, 0), (0.5, 0)])[-1]
    assert found.best == Judged(1, 0.5)


def test_without_patience_nothing_stops() -> None:
    assert not _taken([(0.5, 0)] * 50)[-1].is_over(EvaluationSpec())


def test_the_last_is_kept_without_a_copy_of_each_best() -> None:
    assert _taken([(0.5, 0)], EvaluationSpec())[-1].arrays is None


def test_what_was_not_measured_is_no_judgement() -> None:
    spec = EvaluationSpec(release="accuracy", metric="sites")
    row: dict[str, Any] = {"round": 3, "aggregated": True, "public": {"accuracy": 0.9}, "sites": None}
    assert judged(row, spec) is None
    assert judged(row | {"sites": {"accuracy": None, "noise_error": None}}, spec) is None
    assert judged(row | {"sites": {"accuracy": 0.7, "noise_error": 0.1}}, spec) == Judged(3, 0.7, 0.1)
    assert judged(row, EvaluationSpec()) == Judged(3, 0.9)
    assert judged(row | {"aggregated": False}, EvaluationSpec()) is None


# In a run


def _judge_by(values: list[float]) -> Any:
    """A public evaluator that gives these accuracies in turn."""
    left = iter(values)

    def evaluate(arrays: Any) -> PublicMetrics:
        return PublicMetrics(next(left), 0.5, 1.0, 4, {"p": 1.0}, [[1]])

    return evaluate


def _public(monkeypatch: pytest.MonkeyPatch, values: list[float], **evaluation: Any) -> Scene:
    the_plan = plan(training={"rounds": len(values) - 1}, evaluation=evaluation)
    return scene(monkeypatch, [Site("north"), Site("south")], the_plan, evaluate=_judge_by(values))


def _arrays_after(ran: Scene, round: int) -> dict[str, Any]:
    (found,) = [kept.state.arrays for kept in ran.checkpoints if kept.round == round][-1:]
    return found


def test_the_best_rounds_adapter_is_what_a_run_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the initial adapter's, though it were better than all."""
    ran = _public(monkeypatch, [0.99, 0.3, 0.6, 0.5, 0.6], keep="best").run()
    assert digest(ran.strategy.state.arrays) == digest(_arrays_after(ran, 2))
    assert digest(_arrays_after(ran, 2)) != digest(_arrays_after(ran, 4))
    assert ran.strategy.completed == 4
    assert {"event": "kept", "best": 2, "accuracy": 0.6, "metric": "public"} in ran.events
    row = kept_round(ran.strategy.history, ran.strategy.plan.evaluation)
    assert row is not None
    assert row["round"] == 2
    json.dumps(ran.events)


def test_unless_told_otherwise_the_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _public(monkeypatch, [0.1, 0.9, 0.2, 0.3]).run()
    assert digest(ran.strategy.state.arrays) == digest(_arrays_after(ran, 3))
    assert not [event for event in ran.events if event["event"] in ("kept", "stopped_early", "warning")]
    row = kept_round(ran.strategy.history, ran.strategy.plan.evaluation)
    assert row is not None
    assert row["round"] == 3


def test_a_run_stops_when_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _public(monkeypatch, [0.1, 0.5, 0.7, 0.6, 0.7, 0.9, 0.9], patience=2).run()
    assert [row["round"] for row in ran.rounds()] == [1, 2, 3, 4]
    (told,) = [event for event in ran.events if event["event"] == "stopped_early"]
    assert told == {
        **{"event": "stopped_early", "round": 4, "judgements": 2, "best": 2, "accuracy": 0.7, "metric": "public"}
    }
    assert digest(ran.strategy.state.arrays) == digest(_arrays_after(ran, 4))  # it keeps the last: nothing said best
    assert all(site.count("finish") == 1 for site in ran.grid.nodes.values())


def test_without_a_public_file_the_choice_is_told_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = scene(monkeypatch, [Site("north"), Site("south")], plan(evaluation={"keep": "best"})).run()
    (warning,) = [event for event in ran.events if event["event"] == "warning"]
    assert "no public file" in warning["text"]
    assert digest(ran.strategy.state.arrays) == digest(_arrays_after(ran, 2))


def _by_sites(monkeypatch: pytest.MonkeyPatch, right: list[float], sigma: float, **evaluation: Any) -> Scene:
    """Both sites release these shares of 100 units after the rounds, in turn."""

    def counts(after: int) -> Any:
        return np.array([100 * right[after - 1], 100 * (1 - right[after - 1])], np.float32)

    sites = [Site(name, statement=releasing(sigma), counts=counts) for name in ("north", "south")]
    spec = {"every": 1, "metric": "sites"} | evaluation
    the_plan = evaluated(training={"rounds": len(right)}, evaluation=spec)
    return scene(monkeypatch, sites, the_plan, evaluate=_judge_by([0.1 * i for i in range(len(right) + 1)]))


def test_the_sites_metric_decides_where_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = _by_sites(monkeypatch, [0.5, 0.8, 0.6, 0.7], 1.0, keep="best", patience=2).run()
    assert [row["round"] for row in ran.rounds()] == [1, 2, 3, 4]
    (kept,) = [event for event in ran.events if event["event"] == "kept"]
    assert (kept["best"], kept["metric"]) == (2, "sites")
    assert kept["accuracy"] == pytest.approx(0.8)
    assert digest(ran.strategy.state.arrays) == digest(_arrays_after(ran, 2))


def test_large_noise_makes_gains_none(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.5, 0.52, 0.54, 0.56, 0.58, 0.6]
    assert len(_by_sites(monkeypatch, values, 0.01, patience=2).run().rounds()) == 6
    assert len(_by_sites(monkeypatch, values, 20.0, patience=2).run().rounds()) == 3


def test_a_run_that_stops_early_by_public_accuracy_asks_the_sites_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [Site(name, statement=releasing()) for name in ("north", "south")]
    the_plan = evaluated(training={"rounds": 9}, evaluation={"every": 4, "patience": 2})
    values = [0.1, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.1]
    ran = scene(monkeypatch, sites, the_plan, evaluate=_judge_by(values)).run()
    assert {row["round"]: row["evaluation"]["number"] for row in ran.rounds() if row["evaluation"]} == {4: 1, 6: 2}


# Checkpoints


@pytest.mark.parametrize("metric", ["public", "sites"])
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, metric: str, cut: int
) -> None:
    right, values = [0.5, 0.8, 0.6, 0.7, 0.9], [0.1, 0.5, 0.8, 0.6, 0.7, 0.9]

    def start(public: list[float]) -> Scene:
        fresh = _by_sites(monkeypatch, right, 1.0, keep="best", patience=2, metric=metric)
        fresh.strategy.judge._evaluate = _judge_by(public)
        return fresh

    whole = start(values).run()
    assert len(whole.rounds()) == 4
    kept = [checkpoint for checkpoint in whole.checkpoints if checkpoint.round == cut][-1]
    loaded = load_checkpoint(save_checkpoint(kept, tmp_path))
    again = start(values[cut + 1 :])
    again.strategy.state, again.strategy.completed = loaded.state, loaded.completed
    again.strategy.judge.standing = loaded.standing
    again.strategy._sampler.bit_generator.state = loaded.sampler
    nothing: Any = None
    number = cut
    while not again.strategy._is_over(number):
        number += 1
        messages = again.strategy.configure_train(number, nothing, nothing, again.grid)
        again.strategy.aggregate_train(number, again.grid.send_and_receive(messages))
        messages = list(again.strategy.configure_evaluate(number, nothing, nothing, again.grid))
        again.strategy.aggregate_evaluate(number, again.grid.send_and_receive(messages))
    again.strategy.state = State(dict(again.strategy.judge.conclude(number, again.strategy.completed) or {}))
    assert number == 4
    assert digest(again.strategy.state.arrays) == digest(whole.strategy.state.arrays)
    assert again.strategy.judge.standing.best == whole.strategy.judge.standing.best


def test_a_checkpoint_holds_the_standing(tmp_path: Path) -> None:
    arrays = {"x": np.arange(3, dtype=np.float32), "best/x": np.ones(2, np.float32)}
    standing = Standing(Judged(3, 0.75, 0.01), arrays, Judged(2, 0.7, 0.02), 4)
    kept = Checkpoint("ab" * 32, 5, 4, State(initial()), {"state": 2**100}, standing)
    found = load_checkpoint(save_checkpoint(kept, tmp_path))
    assert found.standing.arrays is not None
    assert digest(found.standing.arrays) == digest(arrays)
    assert digest(found.state.arrays) == digest(initial())
    assert (found.standing.best, found.standing.improved, found.standing.waited) == (
        *(Judged(3, 0.75, 0.01), Judged(2, 0.7, 0.02), 4),
    )


def test_an_older_checkpoint_is_read(tmp_path: Path) -> None:
    """As it was written before rounds were compared."""
    from safetensors.numpy import save_file

    note = {"plan_digest": "ab" * 32, "round": 2, "completed": 2, "sampler": {"state": 1}}
    path = tmp_path / "round-00002.safetensors"
    save_file({"adapter/x": np.zeros(2, np.float32)}, path, {"privet": json.dumps(note)})
    assert load_checkpoint(path).standing == Standing()


def test_warm_up_costs_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the small rates of a warm-up no gain is to be expected: only later judgements count."""
    values = [0.1, 0.5, 0.4, 0.4, 0.4, 0.9, 0.9, 0.9]
    for warmup, last in ((0, 3), (3, 7)):
        the_plan = plan(training={"rounds": 7, "warmup_rounds": warmup}, evaluation={"patience": 2})
        ran = scene(monkeypatch, [Site("north"), Site("south")], the_plan, evaluate=_judge_by(values)).run()
        assert ran.rounds()[-1]["round"] == last
