"""Generated text for demonstrations: hospital notes with a specialty, bank complaints with a product.

    corpus = hospital_notes(num_sites=3, num_patients=600, seed=0)
    write_csv(corpus, "north", Path("north.csv"))
    write_csv(public_sample("hospital", num_sites=3), None, Path("public.csv"))

Nobody is described: every word is put together from the phrases of `hospital` and `bank`. The same arguments give the
same text on every platform, Python and numpy. A patient has 1 to 8 notes (2.5 on average), mostly in one specialty.
Each site has its own class mix, house style, shorthand and names of wards or products, so that it learns little alone
about what it seldom sees.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from privet.common.errors import ConfigError
from privet.simulations.corpus import bank, bank_styles, hospital, hospital_styles
from privet.simulations.corpus.grammar import MILLION, Draws, Shorthand, Wording, Writer

Kind = Literal["hospital", "bank"]

SITE_NAMES = ("north", "south", "east", "west", "harbour", "valley")
_RECORDS_PER_UNIT = (32, 28, 17, 10, 6, 4, 2, 1)  # weights of 1 to 8 records: 2.55 on average
_KEEPS_CLASS = 850_000  # parts per million: a record of the unit's main class
_USES_SHORTHAND = 700_000  # the rest is written out, even in a house with shorthand


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Records in columns of equal length. `unit` is the patient's or customer's id, unique across sites."""

    labels: tuple[str, ...]  # all classes, whether they occur or not
    unit_name: str  # "patient" or "customer"
    text: tuple[str, ...]
    label: tuple[str, ...]
    unit: tuple[str, ...]
    site: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.text)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that have a record, in order."""
        return tuple(dict.fromkeys(self.site))

    def at(self, site: str) -> Self:
        """The records of one site."""
        rows = [row for row, name in enumerate(self.site) if name == site]
        if not rows:
            raise ConfigError(f"No site {site!r} in this corpus.", mend=f"One of: {', '.join(self.sites)}.")
        text, label, unit, sites = (tuple(column[row] for row in rows) for column in self._columns())
        return type(self)(labels=self.labels, unit_name=self.unit_name, text=text, label=label, unit=unit, site=sites)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns by the names that `write_csv` gives them."""
        return dict(zip(("text", "label", self.unit_name, "site"), self._columns(), strict=True))

    def _columns(self) -> tuple[tuple[str, ...], ...]:
        return self.text, self.label, self.unit, self.site


@dataclass(frozen=True, slots=True)
class _Source:
    """One kind of text: its classes, its sentence orders and, by house style, its wording."""

    kind: Kind
    unit_name: str
    labels: tuple[str, ...]
    shapes: tuple[tuple[int, tuple[str, ...]], ...]
    shared: tuple[Wording, ...]
    classes: tuple[tuple[Wording, ...], ...]
    shorthand: tuple[Shorthand, ...]

    def write(self, draws: Draws, style: int, label: int) -> str:
        """One text of 2 to 4 sentences."""
        style %= len(self.shared)
        writer = Writer(draws, self.shared[style], self.classes[style], label)
        _, slots = self.shapes[draws.weighted([weight for weight, _ in self.shapes])]
        text = " ".join([writer.sentence(slot) for slot in slots])
        return self.shorthand[style].apply(text) if draws.chance(_USES_SHORTHAND) else text


_HOSPITAL = _Source(
    "hospital",
    "patient",
    hospital.LABELS,
    hospital.SHAPES,
    tuple({**hospital.COMMON, **style} for style in hospital_styles.STYLES),
    tuple(
        tuple(
            {**hospital.SPECIALTIES[x], "ward": w}
            for x, w in zip(hospital.LABELS, hospital_styles.wards(style), strict=True)
        )
        for style in range(len(hospital_styles.STYLES))
    ),
    hospital_styles.SHORTHAND,
)
_BANK = _Source(
    "bank",
    "customer",
    bank.LABELS,
    bank.SHAPES,
    tuple({**bank.COMMON, **style} for style in bank_styles.STYLES),
    tuple(
        tuple({**bank.PRODUCTS[x], "brand": b} for x, b in zip(bank.LABELS, bank_styles.brands(style), strict=True))
        for style in range(len(bank_styles.STYLES))
    ),
    bank_styles.SHORTHAND,
)


def hospital_notes(
    *,
    num_sites: int = 3,
    num_patients: int | Sequence[int] = 600,
    seed: int = 0,
    label_noise: float = 0.04,
    skew: float = 0.7,
) -> Corpus:
    """Notes of `num_patients` patients a site (one number, or one for each site), labelled with a specialty.

    `label_noise` is the share of records whose label is one of the other classes. `skew` is the share of a site's
    patients that is drawn from its home specialties alone: 0 gives every site the same mix, 1 only its own.
    Raises ConfigError on a number out of range.
    """
    return _generate(_HOSPITAL, num_sites, num_patients, seed, label_noise, skew)


def bank_complaints(
    *,
    num_sites: int = 3,
    num_customers: int | Sequence[int] = 600,
    seed: int = 0,
    label_noise: float = 0.04,
    skew: float = 0.7,
) -> Corpus:
    """Complaints of `num_customers` customers a site, labelled with a product. Else as `hospital_notes`."""
    return _generate(_BANK, num_sites, num_customers, seed, label_noise, skew)


def public_sample(
    kind: Kind, *, num_records: int = 600, num_sites: int = 3, seed: int = 0, label_noise: float = 0.0
) -> Corpus:
    """Texts that belong to nobody, to judge a model on: balanced classes, the styles of all sites in turn.

    They come from another stream of draws than the sites' own texts; the one site is called "public".
    """
    source = {"hospital": _HOSPITAL, "bank": _BANK}.get(kind)
    if source is None:
        raise ConfigError(f"Expected hospital or bank, got {kind!r}.")
    _expect(num_records >= 1, f"Expected num_records >= 1, got {num_records}.")
    _check(num_sites, label_noise, 0.0)
    num_classes = len(source.labels)
    text, label = [], []
    for row in range(num_records):
        draws = Draws(source.kind, "public", seed, row)
        about = row % num_classes
        label.append(source.labels[_noisy(draws, about, num_classes, label_noise)])
        text.append(source.write(draws, (row // num_classes) % num_sites, about))
    unit = tuple(f"public-{row + 1:04d}" for row in range(num_records))
    return Corpus(
        labels=source.labels,
        unit_name=source.unit_name,
        text=tuple(text),
        label=tuple(label),
        unit=unit,
        site=("public",) * num_records,
    )


def write_csv(corpus: Corpus, site: str | None, path: Path) -> None:
    """Write one site's records (None: all of them, with a column `site`) as UTF-8 CSV with a header.

    Columns: text, label and patient or customer. `path` is replaced where it exists.
    """
    columns = (corpus if site is None else corpus.at(site)).columns()
    if site is not None:
        del columns["site"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def write_files(
    kind: Kind, folder: Path, *, num_sites: int = 3, num_units: int = 400, seed: int = 0
) -> dict[Path, int]:
    """Write NAME.csv for each site, all.csv of all of them, and public.csv: their paths, and rows of each.

    Existing ones are replaced.
    Raises: ConfigError on a number out of range or a folder that cannot be written.
    """
    if kind == "hospital":
        corpus = hospital_notes(num_sites=num_sites, num_patients=num_units, seed=seed)
    else:
        corpus = bank_complaints(num_sites=num_sites, num_customers=num_units, seed=seed)
    public = public_sample(kind, num_sites=num_sites, seed=seed)
    made = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for site in corpus.sites:
            made[folder / f"{site}.csv"] = len(corpus.at(site))
            write_csv(corpus, site, folder / f"{site}.csv")
        for name, rows in (("all.csv", corpus), ("public.csv", public)):
            made[folder / name] = len(rows)
            write_csv(rows, None, folder / name)
    except OSError as error:
        raise ConfigError(
            f"cannot be written ({error.strerror or error}).", where=str(folder), mend="give a writable folder."
        ) from None
    return made


def _generate(
    source: _Source, num_sites: int, num_units: int | Sequence[int], seed: int, label_noise: float, skew: float
) -> Corpus:
    _check(num_sites, label_noise, skew)
    sizes = [num_units] * num_sites if isinstance(num_units, int) else list(num_units)
    _expect(len(sizes) == num_sites, f"Expected one number of {source.unit_name}s for each of {num_sites} sites.")
    _expect(min(sizes) >= 1, f"Expected at least one {source.unit_name} at every site, got {min(sizes)}.")
    num_classes = len(source.labels)
    text, label, unit, sites = [], [], [], []
    for index, size in enumerate(sizes):
        name = _site_name(index)
        mix = _class_mix(Draws(source.kind, "mix", seed, index), index, num_sites, num_classes, skew)
        for number in range(size):
            draws = Draws(source.kind, "site", seed, index, number)  # its own stream: more units change no earlier one
            main = draws.weighted(mix)
            for _ in range(1 + draws.weighted(_RECORDS_PER_UNIT)):
                about = main if draws.chance(_KEEPS_CLASS) else draws.weighted(mix)
                label.append(source.labels[_noisy(draws, about, num_classes, label_noise)])
                text.append(source.write(draws, index, about))
                unit.append(f"{name}-{number + 1:04d}")
                sites.append(name)
    return Corpus(
        labels=source.labels,
        unit_name=source.unit_name,
        text=tuple(text),
        label=tuple(label),
        unit=tuple(unit),
        site=tuple(sites),
    )


def _site_name(index: int) -> str:
    cycle, place = divmod(index, len(SITE_NAMES))
    return SITE_NAMES[place] + (str(cycle + 1) if cycle else "")


def _class_mix(draws: Draws, site: int, num_sites: int, num_classes: int, skew: float) -> list[int]:
    """Integer weights by class. The home classes of neighbouring sites follow each other round the list of classes."""
    num_home = max(2, -(-num_classes // num_sites))
    home = {(site * num_home + step) % num_classes for step in range(num_home)}
    extra, base = round(skew * MILLION), MILLION - round(skew * MILLION)
    weights = []
    for label in range(num_classes):
        uneven = 700 + draws.below(601)  # no two sites are quite alike: 0.7 to 1.3
        weights.append(uneven * (base * num_home + (extra * num_classes if label in home else 0)))
    return weights


def _noisy(draws: Draws, label: int, num_classes: int, label_noise: float) -> int:
    flip, step = draws.chance(round(label_noise * MILLION)), 1 + draws.below(num_classes - 1)
    return (label + step) % num_classes if flip else label  # both drawn always: the text does not depend on the noise


def _check(num_sites: int, label_noise: float, skew: float) -> None:
    _expect(num_sites >= 1, f"Expected num_sites >= 1, got {num_sites}.")
    _expect(0 <= label_noise < 1, f"Expected 0 <= label_noise < 1, got {label_noise}.")
    _expect(0 <= skew <= 1, f"Expected 0 <= skew <= 1, got {skew}.")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ConfigError(what)
