"""The split into training and validation: by a unit's id alone; and the limit of one person's records."""

import hmac
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privet.client import report as words
from privet.client.data import Records, load_records
from privet.client.split import point, split_key, trains
from tests.client.test_data import LABELS, grouping, make_site

Row = tuple[str, str, str]  # owner, text, label
FRACTIONS = (0.1, 0.3, 0.5, 0.8, 1.0)
_QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
_ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.sampled_from("uvwxyz"), st.sampled_from(LABELS)),
    max_size=14,
)


def _load(folder: Path, rows: list[Row], **data: Any) -> Records:
    path = folder / "data.csv"
    path.write_text("\n".join(["unit,text,label", *(",".join(row) for row in rows), ""]), encoding="utf-8")
    return load_records(make_site(path, **data), LABELS, allow_empty=True)


def _contents(records: Records) -> list[list[tuple[str, str]]]:
    return [[(records.texts[i], records.local_labels[i]) for i in members] for members in grouping(records)]


def _where(records: Records, fraction: float) -> dict[tuple[tuple[str, str], ...], str]:
    """Each unit's content, and in which part it is. With one text a unit, the text names it."""
    parts = dict(zip(("train", "validation"), records.split(fraction), strict=True))
    return {tuple(unit): name for name, part in parts.items() for unit in _contents(part)}


# The split


@_QUIET
@given(rows=_ROWS, fraction=st.sampled_from(FRACTIONS))
def test_every_unit_is_whole_and_in_one_part(tmp_path: Path, rows: list[Row], fraction: float) -> None:
    records = _load(tmp_path, rows)
    train, validation = records.split(fraction)
    assert sorted(_contents(train) + _contents(validation)) == sorted(_contents(records))
    for part in (train, validation):
        assert part.units.tolist() == sorted(part.units.tolist()) or set(part.units) == set(range(part.num_units))
        assert part.num_units == len(part.points) == len(set(part.units.tolist()))
        assert len(part.texts) == len(part.labels) == len(part.units) == len(part.local_labels)
        firsts = [members[0] for members in grouping(part)]
        assert firsts == sorted(firsts)  # the order is kept
        assert part.report is records.report


@_QUIET
@given(rows=_ROWS, fraction=st.sampled_from(FRACTIONS), gone=st.sampled_from("abcdef"))
def test_removing_a_unit_moves_no_other(tmp_path: Path, rows: list[Row], fraction: float, gone: str) -> None:
    rows = [(owner, owner + text, label) for owner, text, label in rows]  # the content tells whose it is
    whole = _where(_load(tmp_path, rows), fraction)
    fewer = _where(_load(tmp_path, [row for row in rows if row[0] != gone]), fraction)
    assert fewer == {unit: part for unit, part in whole.items() if unit[0][0][0] != gone}


@_QUIET
@given(rows=_ROWS, fractions=st.tuples(st.sampled_from(FRACTIONS), st.sampled_from(FRACTIONS)))
def test_a_larger_fraction_only_moves_units_to_training(
    tmp_path: Path, rows: list[Row], fractions: tuple[float, float]
) -> None:
    records, (low, high) = _load(tmp_path, rows), sorted(fractions)
    chosen = trains(records.points, low)
    assert (trains(records.points, high) >= chosen).all()


def test_at_one_every_unit_trains(tmp_path: Path) -> None:
    rows = [(f"p{i}", f"t{i}", "other") for i in range(50)]
    records = _load(tmp_path, rows)
    train, validation = records.split(1.0)
    assert (train.texts, train.units.tolist()) == (records.texts, records.units.tolist())
    assert (validation.texts, validation.num_units, validation.labels.shape) == ([], 0, (0,))
    assert trains(np.array([2**64 - 1], np.uint64), 1.0).all()
    assert not trains(np.array([2**64 - 1], np.uint64), 1 - 2**-53).any()


def test_the_fraction_of_units_is_met(tmp_path: Path) -> None:
    records = _load(tmp_path, [(f"p{i}", f"t{i}", "other") for i in range(4000)])
    for fraction in (0.2, 0.7):
        assert records.split(fraction)[0].num_units == pytest.approx(4000 * fraction, abs=100)


def test_the_split_is_the_data_sets_own_and_not_the_contents(tmp_path: Path) -> None:
    """Two data sets part the same ids differently, and nobody without the id can tell a unit's place."""
    rows = [(f"p{i}", f"t{i}", "other") for i in range(64)]
    ours, theirs = (_load(tmp_path, rows, id=digit * 32) for digit in "12")
    assert (trains(ours.points, 0.5) != trains(theirs.points, 0.5)).sum() > 10
    secret = bytes.fromhex("1" * 32)
    assert split_key(secret) not in (secret, hmac.digest(secret, b"", "sha256"))
    assert ours.points[7] == point(split_key(secret), b"p7")  # and so it stays: an event's ledger depends on it
    assert point(b"k" * 32, b"p7") == 1153045359214694775


def test_ids_are_split_as_they_are_compared(tmp_path: Path) -> None:
    composed, decomposed = (_load(tmp_path, [(name, "x", "other")]) for name in ("Andr\u00e9", " Andre\u0301"))
    assert composed.points.tolist() == decomposed.points.tolist()


def test_a_relabelled_split_is_a_split_of_the_relabelled(tmp_path: Path) -> None:
    records = _load(tmp_path, [(f"p{i % 9}", f"t{i}", LABELS[i % 3]) for i in range(30)])
    one = records.relabel(["other", "neurology"], {}).split(0.5)
    two = tuple(part.relabel(["other", "neurology"], {}) for part in records.split(0.5))
    for first, second in zip(one, two, strict=True):
        assert first.labels.tolist() == second.labels.tolist()
        assert first.units.tolist() == second.units.tolist()


def test_in_record_mode_equal_records_go_together(tmp_path: Path) -> None:
    rows = [("", f"t{i % 40}", "other") for i in range(80)]
    records = _load(tmp_path, rows, unit="record")
    train, validation = records.split(0.5)
    assert records.num_units == 40
    assert not set(train.texts) & set(validation.texts)
    assert len(train.texts) == 2 * train.num_units


# Records of one person


def _persons(folder: Path, rows: list[Row], limit: int = 2) -> Records:
    return _load(folder, rows, unit="record", person="unit", max_per_person=limit)


def test_of_one_person_a_limited_number_of_records_stays(tmp_path: Path) -> None:
    rows = [("ann", f"t{i}", "other") for i in range(7)] + [("", "x", "other"), ("bob", "y", "other")]
    records = _persons(tmp_path, rows)
    assert records.num_units == 3
    assert sum(text.startswith("t") for text in records.texts) == 2
    assert records.report.over_person.count == 5
    assert records.report.no_unit == words.RowNumbers(1, (9,))
    site = make_site(tmp_path / "data.csv", unit="record", person="unit", max_per_person=2)
    assert any("beyond max_per_person, left out: 5 (rows" in line for line in words.lines(records.report, site))
    assert words.to_json(records.report)["over_person"]["count"] == 5


def test_equal_records_of_a_person_count_once(tmp_path: Path) -> None:
    rows = [("ann", "a", "other"), ("ann", "b", "other")] * 3
    records = _persons(tmp_path, rows)
    assert (records.num_units, len(records.texts), records.report.over_person.count) == (2, 6, 0)
    assert records.report.duplicates.count == 4
    again = _persons(tmp_path, [*rows, ("ann", "c", "other")])
    assert again.num_units == 2
    assert again.report.over_person.count in (1, 3)


@_QUIET
@given(rows=_ROWS, gone=st.sampled_from("abcdef"), fraction=st.sampled_from(FRACTIONS), limit=st.integers(1, 3))
def test_removing_a_person_changes_nothing_of_the_others(
    tmp_path: Path, rows: list[Row], gone: str, fraction: float, limit: int
) -> None:
    """Not which records stay, not where they go, not even where two persons' records are equal."""

    def units(part: Records) -> list[list[tuple[str, str]]]:
        return sorted(_contents(part))

    whole, fewer = _persons(tmp_path, rows, limit), _persons(tmp_path, [r for r in rows if r[0] != gone], limit)
    alone = _persons(tmp_path, [row for row in rows if row[0] == gone], limit)
    assert alone.num_units <= limit
    for part, others, own in zip(whole.split(fraction), fewer.split(fraction), alone.split(fraction), strict=True):
        assert units(part) == sorted(units(others) + units(own))


@_QUIET
@given(rows=_ROWS, fraction=st.sampled_from(FRACTIONS), data=st.data())
def test_the_order_of_rows_decides_nothing(
    tmp_path: Path, rows: list[Row], fraction: float, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    parts = [_persons(tmp_path, order).split(fraction) for order in (rows, shuffled)]
    for one, two in zip(*parts, strict=True):
        assert sorted(_contents(one)) == sorted(_contents(two))


def test_all_records_of_a_person_are_in_one_part(tmp_path: Path) -> None:
    """Else the person's losses in training and in validation would add up."""
    rows = [(f"p{i % 30}", f"p{i % 30} t{i}", "other") for i in range(300)]
    records = _persons(tmp_path, rows, 10)
    persons = [{text.split()[0] for text in part.texts} for part in records.split(0.5)]
    assert not persons[0] & persons[1]
    assert len(persons[0] | persons[1]) == 30
    assert min(map(len, persons)) > 5
