"""The generated corpora: exact, plausible, uneven between sites, and neither trivial nor hopeless to learn."""

import csv
import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from privet.common.errors import ConfigError
from privet.simulations.corpus import Corpus, bank_complaints, hospital_notes, public_sample, write_csv
from privet.simulations.corpus.grammar import Draws, Shorthand, Wording, Writer

GOLDEN = [
    "10dbce1a2c1e8931",
    "27194f742adf7e27",
    "fd9910f0422ce2d4",
    "193de64eabe9467b",
]  # the same on every platform, Python and numpy
BOTH = pytest.mark.parametrize("generate", [hospital_notes, bank_complaints])
Generate = Callable[..., Corpus]


def digest(corpus: Corpus) -> str:
    rows = zip(corpus.text, corpus.label, corpus.unit, corpus.site, strict=True)
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()


def test_golden_text() -> None:
    hospital, bank = hospital_notes(num_patients=20, num_sites=7), bank_complaints(num_customers=20, num_sites=7)
    public = public_sample("hospital", num_records=50), public_sample("bank", num_records=50, label_noise=0.2)
    assert [digest(corpus)[:16] for corpus in (hospital, bank, *public)] == GOLDEN


def test_draws_are_the_high_half_of_raw_words() -> None:
    raw = np.random.Philox(key=int.from_bytes(hashlib.sha256(b"privet corpus/a/1").digest()[:16], "little")).random_raw(
        150
    )
    draws = Draws("a", 1)
    assert [draws.below(1000) for _ in range(150)] == [int(word) * 1000 >> 64 for word in raw]


def test_draws_follow_the_weights() -> None:
    draws = Draws("weights")
    counts = Counter(draws.weighted((1, 0, 3)) for _ in range(4000))
    assert counts[1] == 0
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.03)
    assert sum(draws.chance(100_000) for _ in range(4000)) / 4000 == pytest.approx(0.1, abs=0.02)


def test_writer_speaks_of_own_and_of_another_class() -> None:
    shared: Wording = {"say": ("{pain}, no {other_pain}, {n} days",), "n": range(3, 5)}
    classes = ({"pain": ("a",)}, {"pain": ("b",)}, {"pain": ("c",)})
    said = {Writer(Draws(number), shared, classes, own=1).sentence("say") for number in range(50)}
    assert said == {f"B, no {other}, {n} days." for other in "ac" for n in (3, 4)}


def test_shorthand_replaces_whole_words_longest_first() -> None:
    assert Shorthand({"week": "w", "week off": "wo"}).apply("weekly, a week off, a week") == "weekly, a wo, a w"


@BOTH
def test_seed_decides_everything(generate: Generate) -> None:
    first = generate(num_sites=2, seed=1)
    assert first == generate(num_sites=2, seed=1)
    assert not set(first.text) & set(generate(num_sites=1, seed=2).text[:100])


def test_more_patients_or_sites_change_no_earlier_patient() -> None:
    few, many = hospital_notes(num_patients=10), hospital_notes(num_patients=30).at("north")
    assert few.at("north").text == many.text[: len(few.at("north"))]


@BOTH
def test_texts_are_short_and_nearly_all_distinct(generate: Generate) -> None:
    corpus = generate(num_sites=7, num_patients=300) if generate is hospital_notes else generate(num_sites=7)
    words = np.array([len(text.split()) for text in corpus.text])
    assert words.min() >= 13
    assert words.max() <= 70
    assert len(set(corpus.text)) > 0.99 * len(corpus)
    assert not any("{" in text or "  " in text or text != text.strip() for text in corpus.text)


@BOTH
def test_units_have_several_records_mostly_of_one_class(generate: Generate) -> None:
    corpus = generate(label_noise=0.0)
    sizes = Counter(corpus.unit)
    assert set(sizes.values()) == set(range(1, 9))
    assert np.mean(list(sizes.values())) == pytest.approx(2.55, abs=0.15)
    classes: dict[str, Counter[str]] = {}
    for unit, label in zip(corpus.unit, corpus.label, strict=True):
        classes.setdefault(unit, Counter())[label] += 1
    several = [count for count in classes.values() if count.total() >= 4]
    assert np.mean([count.most_common(1)[0][1] / count.total() for count in several]) > 0.8
    assert any(len(count) > 1 for count in several)


def test_sizes_by_site_and_names() -> None:
    corpus = hospital_notes(num_sites=8, num_patients=[5, 6, 7, 8, 9, 10, 11, 12])
    assert corpus.sites == ("north", "south", "east", "west", "harbour", "valley", "north2", "south2")
    assert [len(set(corpus.at(site).unit)) for site in corpus.sites] == list(range(5, 13))
    assert corpus.unit[0] == "north-0001"
    assert len(set(corpus.unit)) == sum(range(5, 13))


@BOTH
def test_skew_gives_each_site_its_own_mix(generate: Generate) -> None:
    def home_share(skew: float) -> list[float]:
        corpus = generate(skew=skew, label_noise=0.0)
        counts = [Counter(corpus.at(site).label) for site in corpus.sites]
        return [sum(n for _, n in count.most_common(2)) / count.total() for count in counts]

    assert max(home_share(0.0)) < 0.5
    assert min(home_share(0.7)) > 0.7
    assert min(home_share(1.0)) == 1.0
    corpus = generate(skew=0.7)
    assert all(set(corpus.at(site).label) == set(corpus.labels) for site in corpus.sites)


def test_label_noise_flips_labels_and_leaves_the_text() -> None:
    clean, noisy = hospital_notes(label_noise=0.0), hospital_notes(label_noise=0.25)
    assert clean.text == noisy.text
    flipped = np.mean([a != b for a, b in zip(clean.label, noisy.label, strict=True)])
    assert flipped == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("kind", ["hospital", "bank"])
def test_public_sample_is_balanced_and_nobodys(kind: str) -> None:
    sample = public_sample(kind, num_records=600)  # type: ignore[arg-type]
    assert set(Counter(sample.label).values()) == {100}
    assert sample.sites == ("public",)
    private = hospital_notes() if kind == "hospital" else bank_complaints()
    shared = set(sample.text) & set(private.text)
    assert len(shared) <= 1  # two short texts may turn out alike; the streams must not
    noisy = public_sample(kind, num_records=600, label_noise=0.2)  # type: ignore[arg-type]
    assert noisy.text == sample.text
    assert noisy.label != sample.label


def test_public_sample_speaks_every_sites_style() -> None:
    text = " ".join(public_sample("hospital", num_sites=3).text)
    assert all(ward in text for ward in ("Heron", "Ward 3", "Quartz"))
    assert "Unit A" not in text


def test_csv(tmp_path: Path) -> None:
    corpus = hospital_notes(num_patients=5)
    write_csv(corpus, "south", tmp_path / "south.csv")
    write_csv(corpus, None, tmp_path / "all.csv")
    with (tmp_path / "south.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    south = corpus.at("south")
    assert list(rows[0]) == ["text", "label", "patient"]
    assert [tuple(row.values()) for row in rows] == list(zip(south.text, south.label, south.unit, strict=True))
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        assert [row["site"] for row in csv.DictReader(file)] == list(corpus.site)
    with pytest.raises(ConfigError, match="north, south, east"):
        write_csv(corpus, "nowhere", tmp_path / "x.csv")


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_sites": 0},
        {"num_patients": 0},
        {"num_patients": [3, 3]},
        {"label_noise": 1.0},
        {"label_noise": float("nan")},
        {"skew": 1.1},
        {"skew": -0.1},
    ],
)
def test_numbers_out_of_range_are_told(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        hospital_notes(**wrong)  # type: ignore[arg-type]


def test_import_is_light() -> None:
    code = "import sys, privet.simulations.corpus; print({'torch', 'datasets', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@BOTH
def test_words_alone_teach_much_but_not_all_and_one_site_too_little(generate: Generate) -> None:
    corpus, test = generate(), public_sample("hospital" if generate is hospital_notes else "bank", num_records=900)

    def accuracy(train: Corpus) -> float:
        words = TfidfVectorizer(sublinear_tf=True)
        model = LogisticRegression(max_iter=1000).fit(words.fit_transform(train.text), train.label)
        return float(model.score(words.transform(test.text), test.label))

    together = accuracy(corpus)
    assert 0.75 < together < 0.95
    assert max(accuracy(corpus.at(site)) for site in corpus.sites) < together - 0.08
