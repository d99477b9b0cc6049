"""Partitions: every row once, units whole, uneven as asked, nothing on disk."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privet.common.errors import ConfigError, DataError
from privet.simulations.corpus import Corpus, hospital_notes
from privet.simulations.partition import Rows, partition


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return hospital_notes(num_sites=4, num_patients=400)


def split(corpus: Corpus, spec: str, num_sites: int, seed: int = 0, units: bool = True) -> list[Rows]:
    return partition(
        spec,
        labels=corpus.label,
        columns=corpus.columns(),
        units=corpus.unit if units else None,
        num_sites=num_sites,
        seed=seed,
    )


def unevenness(corpus: Corpus, sites: list[Rows]) -> float:
    """Mean total variation distance between a site's classes and all classes, weighted by size."""
    total, label = Counter(corpus.label), np.array(corpus.label)
    distance = 0.0
    for rows in sites:
        for name in corpus.labels:
            distance += abs(
                np.sum(label[rows] == name) / len(label) - total[name] / len(label) * len(rows) / len(label)
            )
    return distance / 2


@settings(max_examples=25, deadline=None)
@given(data=st.data(), spec=st.sampled_from(["iid", "dirichlet:0.1", "dirichlet:5", "column:colour"]))
def test_every_row_is_at_one_site_and_units_are_whole(data: st.DataObject, spec: str) -> None:
    num_rows = data.draw(st.integers(1, 30))
    column = st.lists(st.sampled_from(["a", "b", "c", "é"]), min_size=num_rows, max_size=num_rows)
    labels, colours = data.draw(column), data.draw(column)
    units = data.draw(st.none() | column)
    num_units = num_rows if units is None else len(set(units))
    least = len(set(colours)) if spec.startswith("column") else 1
    num_sites = data.draw(st.integers(least, max(least, num_units)))
    sites = partition(spec, labels=labels, columns={"colour": colours}, units=units, num_sites=num_sites, seed=0)
    assert len(sites) == num_sites
    assert all(rows.dtype == np.int64 and list(rows) == sorted(rows) for rows in sites)
    assert sorted(int(row) for rows in sites for row in rows) == list(range(num_rows))
    if units is not None and not spec.startswith("column"):
        held = [{units[row] for row in rows} for rows in sites]
        assert sum(map(len, held)) == len(set(units))


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.3"])
def test_the_seed_decides(corpus: Corpus, spec: str) -> None:
    first, again, other = split(corpus, spec, 5, 1), split(corpus, spec, 5, 1), split(corpus, spec, 5, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dirichlet_grows_uneven_as_alpha_falls(corpus: Corpus) -> None:
    found = [
        unevenness(corpus, split(corpus, spec, 8)) for spec in ("iid", "dirichlet:10", "dirichlet:1", "dirichlet:0.1")
    ]
    assert found == sorted(found)
    assert found[0] < 0.1
    assert found[-1] > 0.4


def test_iid_deals_out_shuffled_units_evenly(corpus: Corpus) -> None:
    sites = split(corpus, "iid", 7)
    sizes = [len({corpus.unit[row] for row in rows}) for rows in sites]
    assert max(sizes) - min(sizes) <= 1
    assert all(len({corpus.site[row] for row in rows}) == 4 for rows in sites)


@settings(max_examples=25)
@given(num_units=st.integers(1, 60), seed=st.integers(0, 3), data=st.data())
def test_iid_is_flowers_over_a_shuffled_order(num_units: int, seed: int, data: st.DataObject) -> None:
    import datasets
    from flwr_datasets.partitioner import IidPartitioner

    num_sites = data.draw(st.integers(1, num_units))
    partitioner = IidPartitioner(num_partitions=num_sites)
    order = np.random.Generator(np.random.Philox(seed)).permutation(num_units)
    partitioner.dataset = datasets.Dataset.from_dict({"row": order})
    theirs = [sorted(partitioner.load_partition(site)["row"][:]) for site in range(num_sites)]
    sites = partition("iid", labels=["x"] * num_units, columns={}, units=None, num_sites=num_sites, seed=seed)
    assert [rows.tolist() for rows in sites] == theirs


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.3"])
def test_a_thousand_sites(corpus: Corpus, spec: str) -> None:
    sites = split(corpus, spec, 1000)
    assert len(sites) == 1000
    assert np.array_equal(np.sort(np.concatenate(sites)), np.arange(len(corpus)))


@pytest.mark.parametrize("spec", ["dirichlet:1e-300", "dirichlet:1e300"])
def test_extreme_alphas_lose_no_row(corpus: Corpus, spec: str) -> None:
    assert np.array_equal(np.sort(np.concatenate(split(corpus, spec, 20))), np.arange(len(corpus)))


def test_column_is_one_site_a_value_in_sorted_order(corpus: Corpus) -> None:
    sites = split(corpus, "column:site", 0)
    assert [{corpus.site[row] for row in rows} for rows in sites] == [{"east"}, {"north"}, {"south"}, {"west"}]
    padded = split(corpus, "column:site", 6)
    assert [len(rows) for rows in padded] == [*map(len, sites), 0, 0]
    with pytest.raises(ConfigError, match=r"4 values, more than 3 sites.*4 sites or more"):
        split(corpus, "column:site", 3)


def test_units_are_compared_as_sites_compare_them() -> None:
    units = ["e\u0301 ", "\u00e9", "b", "c"] * 5  # one id, composed and decomposed, and two more
    for seed in range(5):
        sites = partition("iid", labels=["x"] * 20, columns={}, units=units, num_sites=3, seed=seed)
        assert sorted({int(row) % 4 for row in rows} for rows in sites if 0 in rows) == [{0, 1}]


def test_a_units_class_is_that_of_most_of_its_records() -> None:
    labels = ["x", "y", "y", "x", "x", "y"] * 20
    units = [str(row // 3) for row in range(120)]
    sites = partition("dirichlet:1e-6", labels=labels, columns={}, units=units, num_sites=20, seed=0)
    majorities = [{"xy"[int(units[row]) % 2 == 0] for row in rows} for rows in sites if len(rows)]
    assert sorted(map(sorted, majorities)) == [["x"], ["y"]]


@pytest.mark.parametrize(
    ("spec", "num_sites", "told"),
    [
        ("even", 3, "iid, dirichlet:ALPHA or column:NAME"),
        ("column:", 3, "iid, dirichlet:ALPHA or column:NAME"),
        ("iid:3", 3, "iid, dirichlet:ALPHA or column:NAME"),
        ("dirichlet", 3, "iid, dirichlet:ALPHA or column:NAME"),
        ("dirichlet:0", 3, "alpha > 0"),
        ("dirichlet:-1", 3, "alpha > 0"),
        ("dirichlet:nan", 3, "alpha > 0"),
        ("dirichlet:inf", 3, "alpha > 0"),
        ("dirichlet:much", 3, "alpha > 0"),
        ("column:ward", 3, "No column 'ward'.*text, label, patient, site"),
        ("iid", 0, "at least 1 site"),
        ("iid", 1601, "1600 units.*1600 sites or fewer"),
        ("dirichlet:1", 1601, "1600 units.*1600 sites or fewer"),
    ],
)
def test_what_cannot_be_met_is_told(corpus: Corpus, spec: str, num_sites: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        split(corpus, spec, num_sites)


def test_blank_values_are_told_by_row() -> None:
    with pytest.raises(DataError, match="row 2"):
        partition("column:a", labels=["x", "y"], columns={"a": ["1", " "]}, units=None, num_sites=0, seed=0)


def test_missing_library_names_the_mend(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    for spec in ("dirichlet:1", "column:site"):
        with pytest.raises(ConfigError, match=r'pip install "privet\[simulation\]"'):
            split(corpus, spec, 4)
    assert len(split(corpus, "iid", 2)) == 2  # needs none


@pytest.mark.slow
def test_nothing_is_written_or_shown(tmp_path: Path) -> None:
    code = """
import sys
from privet.simulations.partition import partition
assert not {"datasets", "flwr_datasets", "torch"} & set(sys.modules)
columns = {"a": ["secret 1", "secret 2"] * 20}
for spec in ("iid", "dirichlet:0.5", "column:a"):
    partition(spec, labels=["secret 3", "secret 4"] * 20, columns=columns, units=None, num_sites=4, seed=0)
"""
    home, cache, temporary = (tmp_path / name for name in ("home", "cache", "temporary"))
    for folder in (home, cache, temporary):
        folder.mkdir()
    places = {"HOME": home, "HF_HOME": cache, "HF_DATASETS_CACHE": cache, "TMPDIR": temporary}
    environment = os.environ | {name: str(folder) for name, folder in places.items()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not [*cache.iterdir(), *temporary.iterdir()]
    # flwr-datasets imports a plotting library, which keeps a list of fonts at home: nothing of the data is in it.
    assert not any(b"secret" in file.read_bytes() for file in home.rglob("*") if file.is_file())
