import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.errors import InputError
from privet.common.privacy import TrainEvent, calibration, noise_multiplier
from privet.common.privacy import epsilon as composed


def spent(sample_rate: float, steps: int, delta: float, sigma: float) -> float:
    event = TrainEvent(
        sample_rate=sample_rate,
        noise_multiplier=sigma,
        steps=steps,
        max_grad_norm=1.0,
        expected_batch=1,
        unit="unit",
        max_records=1,
    )
    return composed([event], delta)


def assert_smallest(sample_rate: float, steps: int, epsilon: float, delta: float) -> None:
    sigma = noise_multiplier(sample_rate=sample_rate, steps=steps, epsilon=epsilon, delta=delta)
    assert sigma == round(sigma, 3)
    assert spent(sample_rate, steps, delta, sigma) <= epsilon
    if sigma > 0.001:
        assert spent(sample_rate, steps, delta, round(sigma - 0.001, 3)) > epsilon


@pytest.mark.parametrize(
    ("sample_rate", "steps", "epsilon", "delta"),
    [
        (0.5, 200, 8.0, 1e-5),
        (0.01, 10_000, 1.0, 1e-5),
        (0.1, 100, 3.54, 1e-5),
        (0.02, 50, 1.0, 1e-6),
        (1.0, 1, 1.0, 1e-5),
        (1.0, 1, 1000.0, 1e-5),
        (0.5, 10_000, 0.05, 1e-7),
        (0.3, 1, 1e-4, 1e-5),
    ],
)
def test_the_smallest_sigma_that_keeps_the_promise(
    sample_rate: float, steps: int, epsilon: float, delta: float
) -> None:
    assert_smallest(sample_rate, steps, epsilon, delta)


@settings(max_examples=4, deadline=None)
@given(
    sample_rate=st.floats(0.05, 1.0),
    steps=st.integers(1, 500),
    epsilon=st.floats(0.1, 20.0),
    delta=st.sampled_from([1e-4, 1e-6, 1e-8]),
)
def test_the_smallest_sigma_anywhere(sample_rate: float, steps: int, epsilon: float, delta: float) -> None:
    assert_smallest(sample_rate, steps, epsilon, delta)


def test_the_inverse_of_the_measured_figure() -> None:
    assert noise_multiplier(sample_rate=0.1, steps=100, epsilon=3.536, delta=1e-5) == 1.5


def test_the_closed_form_gaussian() -> None:
    # Balle and Wang 2018: sigma 3.7304 for epsilon 1, delta 1e-5, sensitivity 1.
    assert noise_multiplier(sample_rate=1.0, steps=1, epsilon=1.0, delta=1e-5) == pytest.approx(3.731, abs=0.0011)


def test_the_unreachable_is_told_with_a_mend() -> None:
    with pytest.raises(InputError, match="10,000") as caught:
        noise_multiplier(sample_rate=0.9, steps=10_000, epsilon=0.001, delta=1e-9)
    assert "fewer rounds" in caught.value.mend


@pytest.mark.parametrize("bad", [{"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 0.0}, {"delta": 1.0}, {"steps": 0}])
def test_bad_arguments(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        noise_multiplier(**{"sample_rate": 0.1, "steps": 10, "epsilon": 1.0, "delta": 1e-5} | bad)  # type: ignore[arg-type]


def test_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(*args: object) -> float:
        counts[-1] += 1
        return composed(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(calibration, "composed_epsilon", counted)
    for figures in [(0.5, 200, 8.0, 1e-5), (0.01, 10_000, 1.0, 1e-5), (0.02, 1000, 3.9, 1e-5), (0.25, 400, 3.0, 1e-6)]:
        counts.append(0)
        began = time.process_time()
        noise_multiplier(sample_rate=figures[0], steps=figures[1], epsilon=figures[2], delta=figures[3])
        assert time.process_time() - began < 3  # about half a second on an idle core
    assert max(counts) <= 10


@settings(max_examples=300, deadline=None)
@given(root=st.integers(1, 10**7), guess=st.integers(1, 10**7), power=st.floats(1.0, 8.0), jumps=st.booleans())
def test_the_search_ends_at_the_least_from_any_guess(root: int, guess: int, power: float, jumps: bool) -> None:
    calls = 0

    def falling(m: int) -> float:
        nonlocal calls
        calls += 1
        if jumps:
            return 0.0 if m >= root else math.inf
        return float((m / root) ** -power) if m != root else 1.0

    assert calibration._search(falling, 1.0, guess) == root
    assert calls < 200
    assert calibration._search(lambda m: math.inf, 1.0, guess) is None
