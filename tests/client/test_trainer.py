"""The trainer against brute force, Opacus' own engine and the traps that break differential privacy in silence."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from privet.client.trainer import TrainSpec, clipped_sum, train
from privet.client.training import RoundTrainer
from privet.client.unit_gradients import Dense
from privet.common.config import Plan
from privet.common.examples import TokenExamples, Units, tokenise
from privet.common.model import build_classifier
from privet.common.privacy.events import TrainEvent
from privet.common.privacy.noise import SecureNoise, SeededNoise, privatise
from tests.tiny_models import tiny_base, tiny_plan

TEXTS = [
    "the patient has a fever and cough",
    "no pain in the heart",
    "chest pain and fever today",
    "my account is locked please refund my card today the transfer failed and was charged twice",
    "a rash",
    "the card was charged twice",
    "skin rash and no fever",
    "please refund",
]
LABELS = np.array([0, 1, 1, 2, 0, 2, 0, 2])
UNITS = np.array([0, 0, 0, 1, 2, 1, 3, 4])  # one unit of three records, one of two, three of one


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=["ffa", "fedavg", "cls-fedavg"])
def trainer(request: pytest.FixtureRequest, base: Path) -> RoundTrainer:
    kind = request.param
    pooling = "cls" if kind.startswith("cls") else "mean"
    method = kind.removeprefix("cls-")
    return RoundTrainer(_plan(base, method=method, pooling=pooling), base)


def _plan(base: Path, *, method: str = "ffa", pooling: str = "mean", **training: Any) -> Plan:
    return tiny_plan(
        base,
        method={"kind": method},
        model={"pooling": pooling},
        task={"max_length": 32, "buckets": [8, 16, 32]},
        training={"optimizer": "sgd", "learning_rate": 1.0, **training},
    )


def _examples(
    trainer: RoundTrainer, *, drop_unit: int | None = None, labels: NDArray[np.int64] = LABELS
) -> TokenExamples:
    """The texts above; `drop_unit` leaves one unit's records out but keeps the others' numbers."""
    keep = np.flatnonzero(drop_unit != UNITS)
    return tokenise(
        [TEXTS[i] for i in keep],
        labels[keep],
        UNITS[keep],
        5,
        trainer.tokenizer,
        trainer.plan.task.buckets,
    )


def _event(**changes: Any) -> TrainEvent:
    settings: dict[str, Any] = {
        "sample_rate": 0.5,
        "noise_multiplier": 0.0,
        "steps": 1,
        "max_grad_norm": 0.5,
        "expected_batch": 3,
        "unit": "unit",
        "max_records": 8,
    }
    return TrainEvent(**(settings | changes))


def _spec(event: TrainEvent, optimizer: str = "sgd", learning_rate: float = 1.0) -> TrainSpec:
    return TrainSpec(event=event, optimizer=optimizer, learning_rate=learning_rate)


def _engine(trainer: RoundTrainer) -> Any:
    engine: Any = trainer.engine(1)
    rng = np.random.default_rng(5)
    engine.write(rng.normal(0, 0.2, engine.spec.size).astype(np.float32))  # away from zero: no gradient vanishes
    return engine


def _brute_force(trainer: RoundTrainer, data: TokenExamples, unit: int) -> NDArray[np.float64]:
    """g_u by one backward a unit, at batch size one, without Opacus' gradients."""
    parameters = [trainer.classifier.parameter(name) for name in trainer.method.trainable(trainer.spec, 1).names]
    engine = _engine(trainer)
    engine._module.disable_hooks()
    records = data.units.records(unit)
    loss: Any = 0.0
    for record in records:
        batch = next(data.batches(np.array([record])))
        (row,) = batch.rows.tolist()
        logits = trainer.classifier(*(tensor[row : row + 1] for tensor in batch.inputs))
        loss = loss + nn.functional.cross_entropy(logits, batch.labels[row : row + 1]) / len(records)
    gradients = torch.autograd.grad(loss, parameters)
    engine._module.enable_hooks()
    return torch.cat([gradient.reshape(-1) for gradient in gradients]).double().numpy()


class Everyone(SeededNoise):
    """Draws every unit."""

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        return np.ones(n, bool)


def test_equals_brute_force_one_backward_a_unit(trainer: RoundTrainer) -> None:
    engine, data, event = _engine(trainer), _examples(trainer), _event()
    expected = np.zeros(engine.spec.size)
    norms = []
    for unit in range(5):
        gradient = _brute_force(trainer, data, unit)
        norms.append(float(np.linalg.norm(gradient)))
        expected += gradient * min(1.0, event.max_grad_norm / (1.001 * norms[-1]))
    assert min(norms) < event.max_grad_norm < max(norms) or max(norms) > event.max_grad_norm
    total = clipped_sum(_engine(trainer), data, np.arange(5), event, Everyone(0))
    np.testing.assert_allclose(total, expected, atol=1e-5)


def test_one_unit_moves_the_sum_by_at_most_the_clip_norm(trainer: RoundTrainer) -> None:
    """The sensitivity itself: neighbours differ in one unit of three records, clipped jointly over all arrays."""
    event = _event(max_grad_norm=0.05)
    with_it = clipped_sum(_engine(trainer), _examples(trainer), np.arange(5), event, Everyone(0))
    without = clipped_sum(_engine(trainer), _examples(trainer, drop_unit=0), np.arange(5), event, Everyone(0))
    moved = float(np.linalg.norm(with_it - without))
    assert 0.9 * event.max_grad_norm < moved <= event.max_grad_norm * (1 + 1e-6)


def test_batch_mates_do_not_change_a_units_part(trainer: RoundTrainer) -> None:
    """Adding unit 0 alone equals the difference it makes among the others."""
    event = _event(max_grad_norm=0.05)
    alone = clipped_sum(_engine(trainer), _examples(trainer), np.array([0]), event, Everyone(0))
    among = clipped_sum(_engine(trainer), _examples(trainer), np.arange(5), event, Everyone(0))
    others = clipped_sum(_engine(trainer), _examples(trainer), np.arange(1, 5), event, Everyone(0))
    np.testing.assert_allclose(among - others, alone, atol=1e-6)


def test_denominator_is_the_expected_batch(trainer: RoundTrainer) -> None:
    data, engine = _examples(trainer), _engine(trainer)
    total = clipped_sum(engine, data, np.arange(5), _event(), Everyone(0))
    for batch in (3, 12):
        update, _ = train(engine, data, _spec(_event(expected_batch=batch)), Everyone(0))
        np.testing.assert_allclose(update, -total / batch, atol=1e-6)


@pytest.mark.parametrize("empty", ["draw", "data"])
def test_an_empty_draw_is_noised_and_charged(trainer: RoundTrainer, empty: str) -> None:
    data = _examples(trainer)
    if empty == "data":
        data = TokenExamples([], np.zeros(0, np.int64), Units(np.zeros(0, np.int64), 0), (8, 16, 32), 0)
    event = _event(sample_rate=1e-12, noise_multiplier=2.0, max_grad_norm=0.5, expected_batch=4)
    update, charged = train(_engine(trainer), data, _spec(event), SecureNoise())
    assert charged == event
    deviation = 2.0 * 0.5 / 4
    assert stats.kstest(update / deviation, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(update / (wrong * deviation), "norm").pvalue < 1e-4


def test_noise_is_added_once_a_step_on_top_of_the_clipped_sum(trainer: RoundTrainer) -> None:
    data, event = _examples(trainer), _event(noise_multiplier=1.5, sample_rate=1.0)
    total = clipped_sum(_engine(trainer), data, np.arange(5), event, Everyone(0))
    update, _ = train(_engine(trainer), data, _spec(event), SecureNoise())
    residue = (-update * event.expected_batch - total) / (1.5 * event.max_grad_norm)
    assert stats.kstest(residue, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(residue / wrong, "norm").pvalue < 1e-4


def test_two_rounds_under_one_global_seed_get_different_noise(trainer: RoundTrainer) -> None:
    event = _event(noise_multiplier=1.0, sample_rate=1e-12)
    updates = []
    for _ in range(2):
        torch.manual_seed(42)
        np.random.seed(42)
        updates.append(train(_engine(trainer), _examples(trainer), _spec(event), SecureNoise())[0])
    assert np.abs(updates[0] - updates[1]).max() > 0.01


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_record_that_cannot_be_computed_contributes_exactly_zero(trainer: RoundTrainer, broken: float) -> None:
    """And leaves the other units' parts as they were, to the last bit."""
    engine, event = _engine(trainer), _event()
    data = _examples(trainer)
    others = clipped_sum(engine, data, np.array([1, 3, 4]), event, Everyone(0))
    poisoned = int(data.units.records(2)[0])
    genuine = engine.per_record

    def poison(batch: Any) -> Any:
        rows = genuine(batch)
        rows[torch.from_numpy(batch.rows[batch.records == poisoned])] = broken
        return rows

    engine.per_record = poison
    try:
        with_it = clipped_sum(engine, data, np.array([1, 2, 3, 4]), event, Everyone(0))
    finally:
        del engine.per_record
    assert np.array_equal(with_it, others)


def test_an_unknown_label_contributes_zero(trainer: RoundTrainer) -> None:
    labels = LABELS.copy()
    labels[4] = -1  # the only record of unit 2
    total = clipped_sum(_engine(trainer), _examples(trainer, labels=labels), np.array([2]), _event(), Everyone(0))
    assert not total.any()


def test_a_units_part_is_the_mean_of_at_most_k_of_its_records(trainer: RoundTrainer) -> None:
    data, event = _examples(trainer), _event(max_grad_norm=1e3, max_records=1)
    single = [
        clipped_sum(_engine(trainer), _subset(data, int(record)), np.array([0]), event, Everyone(0))
        for record in data.units.records(0)
    ]
    seen = set()
    for seed in range(20):
        one = clipped_sum(_engine(trainer), data, np.array([0]), event, Everyone(seed))
        match = [i for i, candidate in enumerate(single) if np.allclose(one, candidate, atol=1e-6)]
        assert len(match) == 1
        seen.update(match)
    assert seen == {0, 1, 2}  # a fresh choice each step
    mean = clipped_sum(_engine(trainer), data, np.array([0]), _event(max_grad_norm=1e3, max_records=3), Everyone(0))
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=1e-6)


def _subset(data: TokenExamples, record: int) -> Any:
    class Only:
        units = Units(np.zeros(1, np.int64), 1)

        def batches(self, records: NDArray[np.int64]) -> Iterator[Any]:
            for batch in data.batches(np.array([record])):
                yield type(batch)(batch.inputs, batch.labels, batch.weights, np.array([0]), batch.rows)

    return Only()


def test_weights_after_the_steps_follow_from_the_noised_gradients_alone(
    trainer: RoundTrainer, monkeypatch: Any
) -> None:
    """AdamW on a bare vector, fed only what `privatise` returned, ends at the same place."""

    seen: list[NDArray[np.float32]] = []
    genuine: Callable[..., NDArray[np.float32]] = privatise

    def watch(*args: Any, **kwargs: Any) -> NDArray[np.float32]:
        seen.append(genuine(*args, **kwargs).copy())
        return seen[-1]

    monkeypatch.setattr("privet.client.trainer.privatise", watch)
    engine = _engine(trainer)
    start = torch.from_numpy(engine.read())
    event = _event(noise_multiplier=0.8, steps=4)
    update, _ = train(engine, _examples(trainer), _spec(event, "adamw", 0.01), SeededNoise(3))
    weights = nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([weights], lr=0.01, weight_decay=0.0)
    for gradient in seen:
        weights.grad = torch.from_numpy(gradient)
        optimizer.step()
    assert len(seen) == 4
    np.testing.assert_allclose(update, (weights.detach() - start).numpy(), atol=1e-6)


def test_draws_follow_the_sampling_rate_and_the_steps_are_all_taken(trainer: RoundTrainer) -> None:
    rates = []

    class Counting(SeededNoise):
        def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
            rates.append((n, rate))
            return super().mask(n, rate)

    train(_engine(trainer), _examples(trainer), _spec(_event(steps=7, sample_rate=0.3)), Counting(1))
    assert rates == [(5, 0.3)] * 7


def test_the_model_is_left_as_it_came(trainer: RoundTrainer) -> None:
    engine = _engine(trainer)
    before = {name: array.copy() for name, array in trainer.classifier.read().items()}
    update, _ = train(engine, _examples(trainer), _spec(_event(noise_multiplier=1.0)), SecureNoise())
    after = trainer.classifier.read()
    assert np.abs(update).max() > 0
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_only_the_methods_arrays_are_in_an_update(base: Path) -> None:
    trainer = RoundTrainer(_plan(base, method="ffa"), base)
    update = trainer.update({}, _examples(trainer), 1, _event(noise_multiplier=1.0), SeededNoise(0))
    assert set(update) == {entry.name for entry in trainer.spec.entries if entry.role in ("lora_B", "head")}


class TorchNoise(SeededNoise):
    """Normals in the order in which Opacus' optimizer draws them from a torch generator."""

    def __init__(self, seed: int, masks: list[NDArray[np.bool_]]) -> None:
        super().__init__(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._masks = iter(masks)
        self.shapes: list[torch.Size] = []

    def mask(self, n: int, rate: float) -> NDArray[np.bool_]:
        return next(self._masks)

    def normal(self, n: int) -> NDArray[np.float64]:
        parts = [torch.normal(0.0, 1.0, size, generator=self._generator).reshape(-1) for size in self.shapes]
        return torch.cat(parts).double().numpy()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_record_mode_equals_opacus_own_engine(base: Path, optimizer: str) -> None:
    """Same draws, same normals: one step of PrivacyEngine's optimizer and one of ours."""
    from opacus import PrivacyEngine

    clip, sigma, batch, seed = 0.4, 0.9, 4, 11
    masks = [np.array([True, False, True, True, True, False, True, True])]
    plan = _plan(base, method="fedavg")

    ours = RoundTrainer(plan, base)
    data = tokenise(TEXTS, LABELS, np.arange(8), 8, ours.tokenizer, (32,))
    engine = _engine(ours)
    start = engine.read()
    noise = TorchNoise(seed, masks)
    noise.shapes = [parameter.shape for parameter in engine.parameters()]
    # Our clip bound has a margin for rounding, 1.001; with C' = 1.001 C and σ' = σ / 1.001 both mechanisms are one.
    event = _event(
        max_grad_norm=1.001 * clip, noise_multiplier=sigma / 1.001, expected_batch=batch, unit="record", max_records=1
    )
    update, _ = train(engine, data, _spec(event, optimizer, 0.05), noise)

    theirs = build_classifier(plan, base)
    names = ours.method.trainable(ours.spec, 1).names
    for parameter in theirs.parameters():
        parameter.requires_grad_(False)
    for name in names:
        theirs.parameter(name).requires_grad_(True)
    with torch.no_grad():
        for name, array in ours.method.trainable(ours.spec, 1).unflatten(start).items():
            theirs.parameter(name).copy_(torch.from_numpy(array))
    parameters = [theirs.parameter(name) for name in names]
    inner: Any = torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW
    loader: Any = torch.utils.data.DataLoader(list(range(8)), batch_size=batch)  # type: ignore[arg-type]
    module, private, _ = PrivacyEngine().make_private(
        module=theirs.train(),
        optimizer=inner(parameters, lr=0.05, weight_decay=0.0),
        data_loader=loader,
        noise_multiplier=sigma,
        max_grad_norm=clip,
        poisson_sampling=False,
        loss_reduction="mean",
        noise_generator=torch.Generator().manual_seed(seed),
    )
    private.expected_batch_size = batch
    drawn = np.flatnonzero(masks[0])
    batches = list(data.batches(drawn))
    inputs = tuple(torch.cat([b.inputs[i][torch.from_numpy(b.rows)] for b in batches]) for i in range(2))
    labels = torch.cat([b.labels[torch.from_numpy(b.rows)] for b in batches])
    nn.functional.cross_entropy(module(*inputs), labels, reduction="mean").backward()
    private.step()
    after = torch.cat([theirs.parameter(name).detach().reshape(-1) for name in names]).numpy()
    # float32 noise and a 1e-6 in Opacus' clip factor: far below AdamW's step of 0.05
    difference = np.abs((after - start) - update)
    assert np.quantile(difference, 0.999) < 1e-4
    if optimizer == "sgd":
        assert difference.max() < 1e-4


def test_head_features_once_equal_training_the_last_layer_of_the_whole_model(base: Path) -> None:
    head = RoundTrainer(_plan(base, method="head"), base)
    whole = RoundTrainer(_plan(base, method="ffa"), base)

    class Texts:
        texts, labels, units, num_units = list(TEXTS), LABELS, UNITS, 5

    prepared = head.prepare(Texts())
    event = _event(max_grad_norm=1e3)
    cached = clipped_sum(head.engine(1), prepared, np.arange(5), event, Everyone(0))
    engine = whole.engine(1)
    full = engine.spec.unflatten(
        clipped_sum(engine, _examples(whole), np.arange(5), event, Everyone(0)).astype(np.float32)
    )
    expected = np.concatenate([full["head.bias"].ravel(), full["head.weight"].ravel()])
    np.testing.assert_allclose(cached, expected, atol=1e-4)


def test_the_self_test_notices_wrong_gradients(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privet.client.gradients import LinearEngine, OpacusEngine
    from privet.common.errors import PrivetError

    for engine, seam, method in ((OpacusEngine, "per_record", "ffa"), (LinearEngine, "_delta", "head")):
        genuine: Any = getattr(engine, seam)
        with monkeypatch.context() as patch:
            patch.setattr(engine, seam, lambda self, *given, genuine=genuine: genuine(self, *given) * 1.01)
            with pytest.raises(PrivetError, match="brute force"):
                RoundTrainer(_plan(base, method=method), base)


def _hostile(trainer: RoundTrainer) -> Any:
    """Weights that a malicious server may send: they make the model chaotic, and rounding differences large."""
    engine: Any = trainer.engine(1)
    rng = np.random.default_rng(3)
    deviation = {"lora_A": 2.0, "lora_B": 6.0}
    trainer.classifier.write(
        {e.name: rng.normal(0, deviation.get(e.role, 1.0), e.shape).astype(np.float32) for e in trainer.spec.entries}
    )
    return engine


@pytest.mark.parametrize("length", [8, 16, 32, 128])
@pytest.mark.parametrize("method", ["fedavg", "head"])
def test_no_coupling_through_arithmetic(base: Path, method: str, length: int) -> None:
    """Taking any one unit away leaves the others' parts as they were, with weights chosen to show the last bit."""
    plan = tiny_plan(
        base,
        method={"kind": method},
        task={"max_length": length, "buckets": [length]},
        training={"optimizer": "sgd", "learning_rate": 1.0},
    )
    trainer = RoundTrainer(plan, base)
    texts = [" ".join(TEXTS[(n + i) % 8] for i in range(length // 8)) for n in range(11)]
    labels, event = np.arange(11) % 3, _event(max_grad_norm=1.0)

    class Texts:
        def __init__(self, keep: list[int]) -> None:
            self.texts = [texts[i] for i in keep]
            self.labels, self.units, self.num_units = labels[keep], np.arange(len(keep)), len(keep)

    def summed(keep: list[int]) -> NDArray[np.float64]:
        trainer.classifier.write(trainer_initial)
        data = trainer.prepare(Texts(keep))
        return clipped_sum(_hostile(trainer), data, np.arange(len(keep)), event, Everyone(0))

    trainer_initial = trainer.classifier.read()
    everyone = summed(list(range(11)))
    for gone in range(0, 11, 3):
        others = summed([i for i in range(11) if i != gone])
        alone = summed([gone])
        assert np.linalg.norm(everyone - others - alone) < 1e-6  # float64 sums of bit-equal parts
        assert np.linalg.norm(everyone - others) <= 1.0


def test_norms_of_many_values_are_exact() -> None:
    """A float32 norm adds small squares to a large sum and loses them; the bound must hold all the same."""

    gradient = torch.full((1, 3_500_000), 2e-4)
    gradient[:, ::64] = 1.0
    exact = float(np.linalg.norm(gradient.double().numpy()))
    held = Dense(gradient)
    assert abs(float(held.norms()[0]) / exact - 1) < 1e-9
    clipped = held.weighted_sum(1.0 / (1.001 * held.norms()))
    assert 0.998 < float(clipped.norm()) <= 1.0


class Tokenizer:
    """A tokenizer that came with a server's base: it panics at one word and gives an id out of range at another."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        if any("panic" in text for text in texts):
            raise BaseException("a panic in Rust")
        return {"input_ids": [[1, 10_000 if "hiv" in text else 2] for text in texts]}


def test_a_hostile_tokenizer_cannot_make_a_record_tell(base: Path) -> None:
    texts = ["fine", "panic", "hiv", "fine too"]
    data = tokenise(texts, np.zeros(4, np.int64), np.arange(4), 4, Tokenizer(), (8,), 100)
    assert data.labels.tolist() == [0, -1, -1, 0]
    trainer = RoundTrainer(_plan(base), base)
    total = clipped_sum(_engine(trainer), data, np.array([1, 2]), _event(), Everyone(0))
    assert not total.any()
