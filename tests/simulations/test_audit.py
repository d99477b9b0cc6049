"""`audit`: the true trainer passes, and each way of breaking it goes red."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tomli_w
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from privet.client import trainer as dp_sgd
from privet.common import cli
from privet.common.cli.audit import audit as command
from privet.common.config import Plan
from privet.common.errors import ConfigError, InputError, RunError
from privet.common.examples import Examples
from privet.common.privacy.accountant import epsilon
from privet.common.privacy.calibration import noise_multiplier
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import NoiseSource, SeededNoise
from privet.simulations import SimulationData
from privet.simulations.audit import white_box
from privet.simulations.audit.black_box import Texts, joined, text_canaries
from privet.simulations.audit.bound import cap, lower_bound
from privet.simulations.audit.canaries import CanaryEngine, WithCanaries, coordinates
from privet.simulations.audit.guesses import LEAST_SPREAD, settle
from privet.simulations.audit.run import audit
from privet.simulations.audit.views import Chosen
from privet.simulations.audit.white_box import AuditedTrainer, attack
from tests.tiny_models import WORDS, tiny_base, tiny_plan

LABELS = tuple(f"label-{number}" for number in range(40))  # a head of 40 · 33 parameters
DELTA = 1e-5
NUM_UNITS = 60
ROUNDS = 2
SEED = 3


def _texts() -> Texts:
    random = np.random.default_rng(0)
    units = np.repeat(np.arange(NUM_UNITS), 2)
    texts = [" ".join(random.choice(WORDS, 8)) for _ in units]
    return Texts(texts, random.integers(len(LABELS), size=len(units)).astype(np.int64), units, NUM_UNITS)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    base = tiny_base(tmp_path_factory.mktemp("base"))
    training = {"rounds": ROUNDS, "local_steps": 2, "expected_batch": NUM_UNITS, "learning_rate": 0.05}
    return tiny_plan(base, task={"labels": LABELS}, training=training)


@pytest.fixture(scope="module")
def trainer(plan: Plan) -> AuditedTrainer:
    return AuditedTrainer(plan, Path(plan.model.base))


@pytest.fixture(scope="module")
def real(trainer: AuditedTrainer) -> Examples:
    return trainer.prepare(_texts())


@pytest.fixture(scope="module")
def event() -> TrainEvent:
    sigma = noise_multiplier(sample_rate=1.0, steps=2 * ROUNDS, epsilon=1.0, delta=DELTA)
    return TrainEvent(
        sample_rate=1.0,
        noise_multiplier=sigma,
        steps=2,
        max_grad_norm=0.5,
        expected_batch=NUM_UNITS,
        unit="unit",
        max_records=1,
    )


@pytest.fixture(scope="module")
def coins() -> NDArray[np.bool_]:
    return SeededNoise(SEED, "audit coins", "unit").mask(1000, 0.5)


def _bound(trainer: AuditedTrainer, real: Examples, event: TrainEvent, coins: NDArray[np.bool_]) -> float:
    claim = epsilon([event] * ROUNDS, DELTA)
    guesses = settle(event, ROUNDS, len(coins), claim, DELTA, white_box.typical_spread(event, 1320))
    return lower_bound(guesses.tally(attack(trainer, real, event, ROUNDS, coins, SEED), coins), DELTA)


def test_the_true_trainer_stays_below_its_claim_and_is_seen(
    trainer: AuditedTrainer, real: Examples, event: TrainEvent, coins: NDArray[np.bool_]
) -> None:
    assert 0 < _bound(trainer, real, event, coins) <= epsilon([event] * ROUNDS, DELTA)
    scores = attack(trainer, real, event, ROUNDS, coins, SEED)
    # q = 1: the sum of the steps is all there is, one standard normal moved by sqrt(steps) / sigma
    shift = 2.0 * ROUNDS / event.noise_multiplier**2
    assert scores[coins].mean() - scores[~coins].mean() == pytest.approx(shift, abs=4 * np.sqrt(shift * 4 / 1000))


def test_without_noise_the_auditor_sees_every_coin(
    trainer: AuditedTrainer, real: Examples, event: TrainEvent, coins: NDArray[np.bool_]
) -> None:
    """The plan's own way of having no noise, at q = 1 and below."""
    silent = replace(event, noise_multiplier=0.0)
    assert _bound(trainer, real, silent, coins) >= 0.9 * cap(1000, 1000, DELTA)
    scores = attack(trainer, real, replace(silent, max_records=2), ROUNDS, coins, SEED)
    step = 0.5 / LEAST_SPREAD**2  # what real units add is known and taken away: 0 or 1 is left at each step
    assert scores[~coins] == pytest.approx(-4 * step, rel=1e-3)
    assert scores[coins] == pytest.approx(4 * step, rel=5e-3)
    drawn = replace(silent, sample_rate=0.9, steps=4)
    assert _bound(trainer, real, drawn, coins) >= 0.9 * cap(1000, 800, DELTA)


def _privatise(factor: float) -> Callable[..., NDArray[np.float32]]:
    def mutant(
        total: NDArray[np.float64],
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch: float,
        noise: NoiseSource,
    ) -> NDArray[np.float32]:
        scale = factor * noise_multiplier * max_grad_norm
        return ((total + scale * noise.normal(total.size)) / expected_batch).astype(np.float32)

    return mutant


@pytest.mark.parametrize(
    ("name", "mutant", "red"),
    [
        ("privatise", _privatise(0.0), True),
        ("privatise", _privatise(0.25), True),
        ("_MARGIN", 0.0, True),  # C / tiny, at most 1: nothing is clipped
        ("privatise", _privatise(1.0), False),
    ],
    ids=["no noise", "a quarter of the noise", "no clip", "the noise as claimed"],
)
def test_a_broken_trainer_goes_red(
    name: str,
    mutant: object,
    red: bool,
    trainer: AuditedTrainer,
    real: Examples,
    event: TrainEvent,
    coins: NDArray[np.bool_],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dp_sgd, name, mutant)
    assert (_bound(trainer, real, event, coins) > epsilon([event] * ROUNDS, DELTA)) == red


def test_a_step_that_the_auditor_misses_is_an_error(
    trainer: AuditedTrainer, real: Examples, event: TrainEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp_sgd, "make_optimizer", lambda *_: SimpleNamespace(step=lambda: None))
    with pytest.raises(RunError, match="saw 0 steps where the horizon has 4"):
        attack(trainer, real, event, ROUNDS, np.ones(10, bool), SEED)
    assert trainer.wrap is None


def test_a_canary_changes_its_own_coordinate_alone_and_no_draw(
    trainer: AuditedTrainer, real: Examples, event: TrainEvent
) -> None:
    """One step at q < 1: every other score is the same to the last bit, whatever this coin shows."""
    once = replace(event, steps=1, sample_rate=0.5)
    without, with_it = np.zeros(50, bool), np.zeros(50, bool)
    with_it[-1] = True
    for seed in range(20):
        first, second = (attack(trainer, real, once, 1, chosen, seed) for chosen in (without, with_it))
        assert np.array_equal(first[:-1], second[:-1])
        if first[-1] != second[-1]:  # it was drawn
            return
    pytest.fail("the canary was never drawn")


def test_canaries_are_clipped_and_summed_with_the_real_units(
    trainer: AuditedTrainer, real: Examples, event: TrainEvent
) -> None:
    engine = trainer.engine(1)
    places = coordinates(7, engine.spec.size, SEED)
    examples = WithCanaries(real, np.array([1, 4]), records_each=3)
    assert examples.units.num_units == NUM_UNITS + 2
    assert len(examples.units.records(NUM_UNITS)) == 3
    drawn = np.array([0, NUM_UNITS, 5, NUM_UNITS + 1, 9])
    several = replace(event, max_records=2)
    alone = dp_sgd.clipped_sum(engine, real, drawn[[0, 2, 4]], several, SeededNoise(1))
    mixed = dp_sgd.clipped_sum(CanaryEngine(engine, places, 0.5), examples, drawn, several, SeededNoise(1))
    expected = np.zeros_like(alone)
    expected[places[[1, 4]]] = 0.5 / 1.001
    assert np.abs(mixed - alone - expected).max() < 1e-12
    only = dp_sgd.clipped_sum(CanaryEngine(engine, places, 0.5), examples, drawn[[1, 3]], several, SeededNoise(1))
    assert np.abs(only - expected).max() < 1e-12


def test_text_canaries_are_words_of_the_vocabulary_and_joined_as_units(trainer: AuditedTrainer) -> None:
    canaries = text_canaries(trainer.tokenizer, len(LABELS), 200, SEED)
    assert canaries.texts == text_canaries(trainer.tokenizer, len(LABELS), 200, SEED).texts
    vocabulary = set(trainer.tokenizer.get_vocab())
    assert all(word in vocabulary for text in canaries.texts for word in text.split())
    whole = joined(_texts(), canaries)
    assert whole.num_units == NUM_UNITS + 200
    chosen = np.arange(whole.num_units) % 2 == 0
    part = Chosen(trainer.prepare(whole), whole.units, chosen)
    assert part.units.num_units == chosen.sum()
    kept = [whole.units[part.units.records(unit)] for unit in range(part.units.num_units)]
    assert [set(units.tolist()) for units in kept] == [{int(unit)} for unit in np.flatnonzero(chosen)]


@pytest.fixture(scope="module")
def data() -> SimulationData:
    given = _texts()
    return SimulationData(given.texts, [LABELS[label] for label in given.labels], [f"u{unit}" for unit in given.units])


def test_every_attack_on_a_plan(plan: Plan, data: SimulationData, tmp_path: Path) -> None:
    from privet.simulations.audit.report import audit_html, tables

    told: list[str] = []
    found = audit(plan, data, sites=1, epsilon=[1.0], canaries=1000, tell=told.append, command="privet audit x")
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["verdict"], document["guarantee"]) == ("pass", False)
    assert "never prove" in document["reason"]
    claimed, silent = document["unit"]
    assert claimed["bound"] <= claimed["claim"] <= 1.0
    assert silent["claim"] is None
    assert silent["bound"] >= 0.9 * silent["cap"]
    assert [row["verdict"] for row in document["text"]] == ["pass", "seen"]
    for row in document["membership"]:
        assert row["members"] + row["others"] == NUM_UNITS
        assert [point["at"] for point in row["true_positive"]] == [0.001, 0.01, 0.1]
    bounds = [point["bound"] for point in document["membership"][0]["true_positive"]]
    assert 0.001 < bounds[0] < bounds[1] < bounds[2] < 0.2
    assert any(line.startswith("membership") for line in told)
    page = audit_html(found)
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert page.count("<svg") == 2
    assert "#010101" not in page
    assert "var(--soft)" in page
    assert len(list(tables(found))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": [float("inf")]}, "finite numbers"),
        ({"epsilon": []}, "finite numbers"),
        ({"canaries": 5}, "fewer show next to nothing"),
        ({"attacks": ["guess"]}, "one of unit"),
        ({"sites": 2}, "it would refuse"),
        ({"canaries": 1321}, "1,321 canaries need as many trained parameters, and this plan trains 1,320"),
    ],
)
def test_what_cannot_be_audited_is_said(
    change: dict[str, object], message: str, plan: Plan, data: SimulationData
) -> None:
    arguments: dict[str, object] = {"sites": 1, "attacks": ["unit"], "epsilon": [1.0]} | change
    with pytest.raises(InputError, match=message):
        audit(plan, data, **arguments)  # type: ignore[arg-type]


def test_the_command_ends_with_1_where_a_bound_lies_above_its_claim(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = plan.model_dump(mode="json") | {"simulation": {"unit": "unit"}}
    given = _texts()
    rows = [
        f"{text},{LABELS[label]},u{unit}"
        for text, label, unit in zip(given.texts, given.labels, given.units, strict=True)
    ]
    held_out = [f"{row.rsplit(',', 1)[0]},held-{index}" for index, row in enumerate(rows[: NUM_UNITS // 4])]
    (tmp_path / "data.csv").write_text("\n".join(["text,label,unit", *rows, *held_out]))
    (tmp_path / "federation.toml").write_text(tomli_w.dumps(raw))

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(cli, "leave", leave)
    app = typer.Typer()
    app.command()(command)
    line = [str(tmp_path / "federation.toml"), "--data", str(tmp_path / "data.csv"), "--sites", "1", "--epsilon", "1"]
    line += ["--attack", "unit", "--report", str(tmp_path / "audit.html")]
    line += ["--set", "training.expected_batch=60", "--set", "training.rounds=1"]
    ended = CliRunner().invoke(app, [*line, "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["verdict"] == "pass"
    assert "No fault found" in (tmp_path / "audit.html").read_text()
    monkeypatch.setattr(dp_sgd, "privatise", _privatise(0.25))
    ended = CliRunner().invoke(app, [*line, "--json"])
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["verdict"] == "violation"
    ended = CliRunner().invoke(app, line)
    assert isinstance(ended.exception, RunError)
    assert "leaks more than is claimed" in str(ended.exception)
    ended = CliRunner().invoke(app, [*line, "--epsilon", "much"])
    assert isinstance(ended.exception, ConfigError)
