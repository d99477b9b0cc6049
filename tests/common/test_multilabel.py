"""Several labels a record: what a row says, what it costs, and what noised counts of it tell."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn import metrics as sklearn_metrics

from privet.common.config import Plan, TaskSpec
from privet.common.privacy.events import Release
from privet.common.tables import read_columns
from privet.common.tasks import label_counts
from privet.common.tasks.base import task_of
from privet.common.tasks.label_counts import counts, share
from privet.common.tasks.loss import multilabel_loss, per_example_loss
from privet.common.tasks.multilabel import Multilabel
from privet.common.tasks.score import score_name, score_of
from privet.common.tasks.targets import UNKNOWN, known

LABELS = ("heart", "lung", "skin", "bone", "brain")
L = len(LABELS)
RELEASES: tuple[Release, ...] = ("accuracy", "per_class")


def task(**settings: Any) -> Multilabel:
    found = task_of(TaskSpec(kind="multilabel", labels=LABELS, **settings))
    assert isinstance(found, Multilabel)
    return found


# What a cell says


def test_a_cell_holds_any_number_of_labels_and_one_unknown_label_makes_the_record_unknown() -> None:
    plan = {label: index for index, label in enumerate(LABELS)} | {"Herz": 0}
    found = task().targets(["", " skin; heart ", "Herz;Herz;heart", "heart;liver", ";;"], plan, ";")
    assert found.tolist() == [[0] * 5, [1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [UNKNOWN] * 5, [0] * 5]
    assert known(found).tolist() == [True, True, True, False, True]
    assert task().targets(["heart|skin"], plan, "|").sum() == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_label_cells_come_from_every_format(tmp_path: Path, kind: str) -> None:
    """A list where the format has lists; one with a value that holds the separator is no list of labels."""
    path = tmp_path / f"notes.{kind}"
    rows: list[Any] = [["heart", "skin"], [], ["lung"], ["heart;skin"]]
    if kind == "csv":
        path.write_text("text,codes\n" + "".join(f'a,"{";".join(row)}"\n' for row in rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": "a", "codes": row}) + "\n" for row in [*rows, "heart", [[1]]]))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": ["a"] * 4, "codes": rows}), path)
    table = read_columns(path, ["text", "codes"], lists={"codes": ";"})
    expected = ["heart;skin", "", "lung"]
    assert table.columns["codes"][:3] == expected
    if kind == "csv":
        assert table.columns["codes"][3] == "heart;skin"
    elif kind == "jsonl":
        assert (table.columns["codes"][3:], table.unreadable) == (["heart"], [4, 6])
    else:
        assert table.unreadable == [4]
    without = read_columns(path, ["text", "codes"]) if kind == "jsonl" else None
    assert without is None or len(without.unreadable) == 5  # elsewhere a list is no value


def test_codes_of_a_list_that_are_no_text_spoil_their_row_alone(tmp_path: Path) -> None:
    """One record does not decide whether a site is there at all."""
    import pyarrow
    from pyarrow import parquet

    path, of_text = tmp_path / "notes.parquet", pyarrow.array([b"I10", b"E11", b"\xff\xfe", b"J45"]).view("string")
    codes = pyarrow.ListArray.from_arrays(pyarrow.array([0, 2, None, 3, 3, 4], pyarrow.int32()), of_text)
    parquet.write_table(pyarrow.table({"text": ["a"] * 5, "codes": codes}), path, row_group_size=2)
    table = read_columns(path, ["text", "codes"], lists={"codes": ";"})
    assert (table.columns["codes"], table.unreadable) == (["I10;E11", None, "", "J45"], [2])

    dates = pyarrow.array([[2**31 - 1], [0], None], pyarrow.list_(pyarrow.date32()))  # the first is beyond any calendar
    parquet.write_table(pyarrow.table({"text": ["a"] * 3, "codes": dates}), path)
    assert read_columns(path, ["text", "codes"], lists={"codes": ";"}).columns["codes"][1:] == ["1970-01-01", None]


# The plan


def _plan(**task: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "f",
        "task": {"labels": list(LABELS)} | task,
        "model": {"base": "b", "sha256": "0" * 64},
        "training": {"rounds": 1, "expected_batch": 1, "learning_rate": 1.0},
    }


def test_plans_that_use_no_new_key_keep_their_digest() -> None:
    plain = Plan.model_validate(_plan())
    assert set(json.loads(plain.canonical())["task"]) == {
        "kind",
        "labels",
        "max_length",
        "windows",
        "stride",
        "buckets",
    }
    same = _plan(class_weights={}, label_smoothing=0.0, thresholds=0.5)
    assert Plan.model_validate(same).digest == plain.digest
    digests = {
        Plan.model_validate(_plan(**changes)).digest
        for changes in (
            {},
            {"class_weights": {"skin": 2.0}},
            {"label_smoothing": 0.1},
            {"kind": "multilabel"},
            {"kind": "multilabel", "thresholds": 0.3},
            {"kind": "multilabel", "thresholds": {"skin": 0.3}},
        )
    }
    assert len(digests) == 6
    weighted = Plan.model_validate(_plan(class_weights={"skin": 2}))
    assert Plan.model_validate_json(weighted.canonical()).digest == weighted.digest
    assert len({weighted, weighted}) == 1  # hashable, tables and all


@pytest.mark.parametrize(
    "task",
    [
        {"class_weights": {"liver": 2.0}},
        {"class_weights": {"skin": 0.0}},
        {"class_weights": {"skin": 101.0}},
        {"label_smoothing": 0.51},
        {"thresholds": 0.3},  # of a classification
        {"kind": "multilabel", "thresholds": 1.0},
        {"kind": "multilabel", "thresholds": {"liver": 0.5}},
        {"kind": "tokens"},  # with a pooling that makes one vector of a text
    ],
)
def test_plans_that_contradict_themselves_are_refused(task: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate(_plan(**task))


def test_pairs_of_labels_are_refused_where_a_record_has_several() -> None:
    raw = _plan(kind="multilabel")
    raw["training"]["train_fraction"] = 0.5
    assert Plan.model_validate(raw | {"evaluation": {"release": "per_class"}})
    with pytest.raises(ValidationError, match="per_class"):
        Plan.model_validate(raw | {"evaluation": {"release": "confusion"}})


# The loss


def test_the_losses_are_those_of_their_formulas() -> None:
    """Each label's cross-entropy, the mean over labels; the weight is of labels that stand."""
    random = np.random.default_rng(0)
    z, y = random.normal(0, 3, (6, L)), random.integers(0, 2, (6, L)).astype(np.float64)
    w, smooth = random.uniform(0.2, 5, L), 0.2
    t = y * (1 - smooth) + smooth / 2
    p = 1 / (1 + np.exp(-z))
    expected = -(w * t * np.log(p) + (1 - t) * np.log(1 - p)).mean(axis=1)
    ones = torch.ones(6)
    given = (torch.tensor(z), torch.tensor(y, dtype=torch.float32), ones)
    found = multilabel_loss(*given, class_weights=torch.tensor(w), smoothing=smooth)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)  # targets come as float32

    labels = random.integers(0, L, 6)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    one_hot = np.eye(L)[labels] * (1 - smooth) + smooth / L
    expected = w[labels] * -(one_hot * log_p).sum(axis=1)
    found = per_example_loss(
        torch.tensor(z), torch.tensor(labels), ones, class_weights=torch.tensor(w), smoothing=smooth
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_rows_loss_and_gradient_are_its_own(kind: str) -> None:
    """With weights of classes and smoothing: the mates' logits, targets and number change no bit of it; a row of
    nobody has none."""
    spec: Any = {"kind": kind, "labels": LABELS, "class_weights": {"skin": 7.0, "lung": 0.1}, "label_smoothing": 0.1}
    own = task_of(TaskSpec(**spec))
    random = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(4, L, generator=random)
    targets = torch.from_numpy(own.nobody(4, 8))

    def gradient(rows: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        leaf = rows.clone().requires_grad_(True)
        losses = own.per_example_loss(leaf, wanted, weights)
        assert losses.shape == (len(rows),)
        (found,) = torch.autograd.grad(losses.sum(), leaf)
        return found

    whole = gradient(logits, targets, torch.ones(4))
    assert (whole.abs().sum(1) > 1e-3).all()
    others = logits.clone()
    others[1:] = 1e4 * torch.randn(3, L, generator=random)
    mixed = targets.clone()
    mixed[1:] = targets[1:].flip(0)
    assert torch.equal(gradient(others, mixed, torch.ones(4))[0], whole[0])
    none = gradient(others, mixed, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert torch.equal(none[0], whole[0])
    assert not none[1:].any()
    assert torch.equal(gradient(logits[:1], targets[:1], torch.ones(1))[0], whole[0])


# Public metrics


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.6, 1.0]), st.sampled_from([0.0, 0.3, 1.0]))
def test_public_metrics_are_those_of_scikit_learn(seed: int, stand: float, said: float) -> None:
    random = np.random.default_rng(seed)
    truth = (random.random((40, L)) < stand).astype(np.int8)
    logits = np.where(random.random((40, L)) < said, 1, -1) * random.exponential(2, (40, L)).astype(np.float32)
    predicted = (logits > 0).astype(int)
    found = task().public_metrics(logits.astype(np.float32), truth)
    every: dict[str, Any] = {"zero_division": 0}
    assert found.micro_f1 == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="micro", **every))
    assert found.macro_f1 == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average="macro", **every))
    for name, function in (
        ("f1", sklearn_metrics.f1_score),
        ("recall", sklearn_metrics.recall_score),
        ("precision", sklearn_metrics.precision_score),
    ):
        assert list(getattr(found, name).values()) == pytest.approx(function(truth, predicted, average=None, **every))
    assert found.subset_accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    by_sklearn = sklearn_metrics.multilabel_confusion_matrix(truth, predicted)
    assert found.counts == [[int(m[1, 1]), int(m[0, 1]), int(m[1, 0]), int(m[0, 0])] for m in by_sklearn]
    expected = multilabel_loss(torch.from_numpy(logits), torch.from_numpy(truth), torch.ones(40)).mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert (score_of(found.to_json()), score_name(found.to_json())) == (found.micro_f1, "micro F1")
    json.dumps(found.to_json(), allow_nan=False)


def test_a_label_is_said_from_its_own_threshold_on() -> None:
    logits = np.log(np.array([[0.29, 0.31, 0.5, 0.89, 0.91]]) / np.array([[0.71, 0.69, 0.5, 0.11, 0.09]]))
    rows = logits.astype(np.float32)
    assert task().said(rows).tolist() == [[False, False, True, True, True]]
    assert task(thresholds=0.3).said(rows).tolist() == [[False, True, True, True, True]]
    assert task(thresholds={"brain": 0.92, "heart": 0.2}).said(rows).tolist() == [[True, False, True, True, False]]
    assert not task().said(np.full((1, L), np.nan, np.float32)).any()


# Cells


def _cells(
    release: Release, said: Sequence[Sequence[float]], stand: Sequence[Sequence[int]], units: Sequence[int]
) -> NDArray[np.float64]:
    members = np.array(units, np.int64)
    return task().unit_cells(
        release,
        np.array(said, np.float32).reshape(-1, L),
        np.array(stand, np.int8).reshape(-1, L),
        members,
        int(members.max(initial=-1)) + 1,
    )


def test_cells_are_one_hot_kinds_of_each_label_over_the_root_of_their_number() -> None:
    said, stand = [[1, 1, -1, -1, -1]], [[1, 0, 1, 0, 0]]
    g = share(L)
    assert g == pytest.approx(1 / math.sqrt(L), abs=2**-23)
    assert g <= 1 / math.sqrt(L)
    expected = g * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]])
    assert _cells("per_class", said, stand, [0]).reshape(L, 4) == pytest.approx(expected, abs=0)
    assert _cells("accuracy", said, stand, [0]) == pytest.approx(np.array([1, 1, 1, 2]) / L, abs=2**-23)
    twice = _cells("per_class", said * 2, stand * 2, [0, 1])
    assert twice == pytest.approx(2 * expected.ravel(), abs=0)
    assert _cells("per_class", said * 2, stand * 2, [0, 0]) == pytest.approx(expected.ravel(), abs=2**-23)


def test_what_cannot_be_judged_adds_nothing_and_counts_in_the_mean() -> None:
    sure = [9.0] * L
    said = [sure, sure, [math.nan, *sure[1:]], [math.inf, *sure[1:]]]
    stand = [[1] * L, [UNKNOWN] * L, [1] * L, [1] * L]
    for release in RELEASES:
        alone = _cells(release, said[:1], stand[:1], [0])
        assert _cells(release, said, stand, [0, 0, 0, 0]) == pytest.approx(alone / 4, abs=2**-22)
        assert not _cells(release, said[1:], stand[1:], [0, 1, 2]).any()
        assert _cells(release, [], [], []).tolist() == [0] * task().num_cells(release)


_RECORD = st.tuples(
    st.tuples(*[st.sampled_from([4.0, -3.5, 0.0, math.nan, math.inf])] * L),
    st.one_of(st.just((UNKNOWN,) * L), st.tuples(*[st.sampled_from([0, 1])] * L)),
)


def _sum(release: Release, units: list[list[Any]]) -> NDArray[np.float64]:
    rows = [(logits, targets) for unit in units for logits, targets in unit]
    numbers = [number for number, unit in enumerate(units) for _ in unit]
    return _cells(release, [logits for logits, _ in rows], [targets for _, targets in rows], numbers)


@settings(max_examples=200, deadline=None)
@given(
    release=st.sampled_from(RELEASES),
    others=st.lists(st.lists(_RECORD, min_size=1, max_size=4), max_size=5),
    one=st.lists(_RECORD, min_size=1, max_size=30),
    two=st.lists(_RECORD, min_size=1, max_size=30),
    place=st.integers(0, 5),
)
def test_a_unit_moves_the_sum_by_no_more_than_the_event_says(
    release: Release, others: list[Any], one: list[Any], two: list[Any], place: int
) -> None:
    """Exactly: the sums are of multiples of 2^-24, without a rounding that others could shift."""
    without = _sum(release, others)
    place = min(place, len(others))
    first = _sum(release, [*others[:place], one, *others[place:]])
    second = _sum(release, [*others[:place], two, *others[place:]])
    assert np.square(first - without).sum() <= 1.0
    assert np.square(first - second).sum() <= 2.0
    assert (first - without).tolist() == _sum(release, [one]).tolist()
    total, one_cell = task().most(release)
    assert (first - without).sum() <= total
    assert (first - without).max() <= one_cell


def test_the_bound_is_reached() -> None:
    """Else the noise would be more than what is claimed needs."""
    for release in RELEASES:
        found = _sum(release, [[((4.0,) * L, (1,) * L)] * 7])
        assert np.square(found).sum() == pytest.approx(1.0, abs=1e-6)


# What noised counts tell


def _truth(units: int = 400, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Logits and targets of records, each a unit: labels of unlike frequency, four in five decisions right."""
    random = np.random.default_rng(seed)
    stand = random.random((units, L)) < np.array([0.5, 0.4, 0.3, 0.2, 0.15])
    said = stand ^ (random.random((units, L)) < 0.2)
    return np.where(said, 1, -1).astype(np.float32), stand.astype(np.int8)


@pytest.mark.parametrize("release", RELEASES)
def test_without_noise_the_metrics_are_those_of_the_public_file(release: Release) -> None:
    logits, stand = _truth()
    cells = task().unit_cells(release, logits, stand, np.arange(len(stand)), len(stand))
    told, public = task().noised_metrics(release, cells, 0.0), task().public_metrics(logits, stand)
    assert told.micro_f1 is not None
    assert told.micro_f1.value == pytest.approx(public.micro_f1, abs=1e-5)
    assert told.micro_f1.noise_error == 0.0
    assert told.num_units == pytest.approx(400, rel=1e-5)
    assert task().exact_score(release, cells) == pytest.approx(public.micro_f1, abs=1e-5)
    if release == "per_class":
        assert told.macro_f1 is not None
        assert told.macro_f1.value == pytest.approx(public.macro_f1, abs=1e-5)
        for label, part in told.labels.items():
            for name in ("recall", "precision", "f1"):
                assert getattr(part, name).value == pytest.approx(getattr(public, name)[label], abs=1e-5)
    else:
        assert (told.macro_f1, told.labels) == (None, {})


@pytest.mark.parametrize("release", RELEASES)
def test_the_stated_errors_are_those_that_chance_shows(release: Release) -> None:
    """Of the noise, cell by cell; and none is above what was predicted before."""
    logits, stand = _truth()
    cells = task().unit_cells(release, logits, stand, np.arange(len(stand)), len(stand))
    sigma, random = 4.0, np.random.default_rng(1)
    told = [task().noised_metrics(release, cells + random.normal(0, sigma, cells.shape), sigma**2) for _ in range(2000)]
    names = ("micro_f1", "micro_recall", "micro_precision")
    for name in names:
        values = np.array([getattr(part, name).value for part in told])
        stated = np.mean([getattr(part, name).noise_error for part in told])
        assert values.std() == pytest.approx(stated, rel=0.08), name
    micro = np.array([part.micro_f1.value for part in told if part.micro_f1 is not None])
    codes_each = float(stand.sum()) / len(stand)
    predicted = task().predicted_standard_error(release, sigma, len(stand))
    assert micro.std() < 1.05 * predicted / codes_each
    assert np.std([part.num_units for part in told]) == pytest.approx(told[0].num_units_error, rel=0.08)
    if release == "per_class":
        part = [one.labels["lung"].recall for one in told]
        values = np.array([one.value for one in part if one is not None])
        assert values.std() == pytest.approx(np.mean([one.noise_error for one in part if one is not None]), rel=0.08)


def test_sampling_errors_are_those_of_units_drawn_anew() -> None:
    """Where a record's labels are independent; of one label they are at most what is stated."""
    found = []
    for seed in range(600):
        logits, stand = _truth(200, seed)
        cells = task().unit_cells("per_class", logits, stand, np.arange(200), 200)
        found.append(task().noised_metrics("per_class", cells, 0.0))
    micro = [part.micro_f1 for part in found if part.micro_f1 is not None]
    stated = np.mean([part.sampling_error for part in micro])
    assert 0.75 * stated < np.std([part.value for part in micro]) < 1.1 * stated
    recall = [part.labels["heart"].recall for part in found]
    assert np.std([one.value for one in recall if one]) < 1.1 * np.mean([one.sampling_error for one in recall if one])


def test_what_the_noise_drowns_is_not_told() -> None:
    logits, stand = _truth()
    cells = task().unit_cells("per_class", logits, stand, np.arange(len(stand)), len(stand))
    told = task().noised_metrics("per_class", cells, 40.0**2)
    assert told.micro_f1 is None
    assert told.macro_f1 is None
    assert told.labels["brain"].recall is None
    row = told.to_json()
    assert (score_of(row), row["noise_error"], score_name(row)) == (None, None, "micro F1")
    json.dumps(row, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(RELEASES), st.lists(st.floats(-1e9, 1e9), min_size=4 * L, max_size=4 * L), st.floats(0, 1e9))
def test_no_cells_make_it_raise(release: Release, values: list[float], variance: float) -> None:
    cells = np.array(values[: task().num_cells(release)])
    row = task().noised_metrics(release, cells, variance).to_json()
    json.dumps(row, allow_nan=False)
    value = score_of(row)
    assert value is None or 0 <= value <= 1


@pytest.mark.parametrize("size", [1, 3 * L, 7 * L + 2])
def test_blocks_of_units_change_no_cell(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever memory a table may take, also where the last units have no sound record."""
    random = np.random.default_rng(size)
    units = random.permutation(np.concatenate([np.arange(20), random.integers(0, 20, 40)]))
    logits, targets = random.normal(size=(60, L)).astype(np.float32), random.integers(0, 2, (60, L))
    targets[units == 19] = UNKNOWN
    whole = task().unit_cells("per_class", logits, targets, units, 20)
    monkeypatch.setattr(label_counts, "_TABLE", size)
    assert task().unit_cells("per_class", logits, targets, units, 20).tolist() == whole.tolist()
    assert whole.any()


def test_counts_scale_back_to_decisions_of_units() -> None:
    logits, stand = _truth(50)
    for release in RELEASES:
        cells = task().unit_cells(release, logits, stand, np.arange(50), 50)
        table, scale = counts(release, cells, L)
        assert float(table.sum()) == pytest.approx(50 * L, rel=1e-5)
        assert scale == pytest.approx(math.sqrt(L) if release == "per_class" else L, rel=1e-5)
    with pytest.raises(ValueError, match="per_class"):
        task().num_cells("confusion")
