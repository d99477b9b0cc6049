"""Counts of entities: equal to seqeval's on public text, bounded and unbiased below the bound at sites."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from privet.common.tasks.entities import (
    entity_counts,
    entity_estimates,
    entity_scores,
    exact_f1,
    num_clipped,
    predicted_f1_error,
    unit_entity_cells,
)
from privet.common.tasks.tags import tag_names

TYPES = ("A", "B")
NAMES = tag_names(TYPES)
tag = st.integers(0, len(NAMES) - 1)
pairs = st.lists(st.lists(st.tuples(tag, tag), min_size=1, max_size=8), min_size=1, max_size=6)


@given(pairs)
def test_public_scores_are_those_of_seqeval(texts: list[list[tuple[int, int]]]) -> None:
    parted = [([t for t, _ in text], [s for _, s in text]) for text in texts]
    counts = np.array([entity_counts(true, said, len(TYPES)) for true, said in parted], np.float64)
    truth = [[NAMES[true] for true, _ in text] for text in texts]
    said = [[NAMES[other] for _, other in text] for text in texts]
    found = entity_scores(counts, np.zeros(len(texts)), TYPES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if counts.any():
            assert found.micro_f1 == pytest.approx(f1_score(truth, said, zero_division=0))
            assert found.macro_f1 == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))
            assert found.micro_precision == pytest.approx(precision_score(truth, said, zero_division=0))
            assert found.micro_recall == pytest.approx(recall_score(truth, said, zero_division=0))
    assert found.score == found.micro_f1


count = st.one_of(st.integers(0, 6), st.just(10**7), st.just(math.nan), st.just(math.inf))
tables = st.lists(st.lists(count, min_size=6, max_size=6), min_size=1, max_size=5)


@settings(deadline=None)
@given(tables, st.sampled_from([0.3, 1.0, 4.0, 1000.0]), st.sampled_from(["accuracy", "per_class"]))
def test_a_unit_adds_at_most_norm_one(table: list[list[float]], bound: float, release: str) -> None:
    counts = np.array(table, np.float64)
    units = np.zeros(len(counts), np.int64)
    cells = unit_entity_cells(release, counts, units, 1, bound)  # type: ignore[arg-type]
    whole = (cells * 2**24).astype(object)
    assert all(value == int(value) and value >= 0 for value in whole)
    assert sum(int(value) ** 2 for value in whole) <= 2**48  # exactly: in integers


def test_a_unit_is_the_same_whoever_else_is_there() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 5, (60, 6)).astype(np.float64)
    units = random.integers(0, 20, 60)
    whole = unit_entity_cells("per_class", counts, units, 20, 2.0)
    for unit in range(20):
        rest = units != unit
        alone = unit_entity_cells("per_class", counts[~rest], np.zeros(int((~rest).sum()), np.int64), 1, 2.0)
        without = unit_entity_cells("per_class", counts[rest], units[rest], 20, 2.0)
        np.testing.assert_array_equal(whole - without, alone)


def test_below_the_bound_counts_are_means_over_records() -> None:
    counts = np.array([[2.0, 0, 0], [0, 1, 0], [1, 0, 1]])
    cells = unit_entity_cells("per_class", counts, np.array([0, 0, 1]), 2, 4.0)
    np.testing.assert_allclose(cells * 4, [2.0, 0.5, 1.0], atol=1e-6)
    assert num_clipped("per_class", counts, np.array([0, 0, 1]), 2, 4.0) == 0
    assert num_clipped("per_class", counts, np.array([0, 0, 1]), 2, 1.2) == 1
    assert num_clipped("per_class", counts, np.array([0, 0, 2]), 4, 1.2) == 1  # units without records are not clipped


def test_a_clipped_unit_counts_for_less_in_all_cells_alike() -> None:
    counts = np.array([[30.0, 10, 0]])
    cells = unit_entity_cells("per_class", counts, np.zeros(1, np.int64), 1, 4.0)
    assert np.linalg.norm(cells) == pytest.approx(1, abs=1e-6)
    assert exact_f1(cells) == pytest.approx(60 / 70, abs=1e-6)


def test_estimates_are_as_far_off_as_they_say() -> None:
    random = np.random.default_rng(1)
    bound, sigma, truth = 4.0, 3.0, np.array([400.0, 60.0, 90.0, 150.0, 70.0, 30.0])
    exact = exact_f1(truth)
    values, said = [], []
    for _ in range(400):
        noised = truth / bound + random.normal(0, sigma, 6)
        found = entity_estimates("per_class", noised, sigma**2, TYPES, bound)
        assert found.micro_f1 is not None
        values.append(found.micro_f1.value)
        said.append(found.micro_f1.noise_error)
    assert np.mean(values) == pytest.approx(exact, abs=0.005)
    assert np.std(values) == pytest.approx(np.mean(said), rel=0.15)
    assert set(found.f1) == set(TYPES)
    assert max(said) <= predicted_f1_error("per_class", 2, sigma, int(truth[[0, 2, 3, 5]].sum()), bound)


def test_what_noise_drowns_is_none() -> None:
    found = entity_estimates("accuracy", np.array([1.0, -2.0, 0.5]), 9.0, TYPES, 4.0)
    assert found.micro_f1 is None
    assert found.to_json()["score"] is None
