"""One file, or generated text, as the data of many virtual sites and a public test set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privet.client.split import point, split_key, taken, trains
from privet.common.columns import plain
from privet.common.config import SimulationSpec, TaskSpec
from privet.common.errors import ConfigError, DataError
from privet.common.sequences import read_tagged
from privet.common.tables import Table, read_columns
from privet.common.tasks.base import task_of
from privet.common.tasks.multilabel import codes
from privet.common.tasks.tags import Tags
from privet.common.tasks.targets import Targets, known, per_label
from privet.common.tasks.tokens import main_type, read_tags, respelled
from privet.simulations.partition import partition

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """One virtual site's labelled texts: targets of the plan's task, dense unit indices [N], each unit's place
    [num_units]."""

    texts: list[str]
    labels: Targets
    units: Integers
    num_units: int
    points: NDArray[np.uint64]
    tags: Sequence[Tags | None] = ()  # [N], of the words, where the plan's task labels tokens

    def split(self, train_fraction: float) -> tuple["Records", "Records"]:
        """The records of the units that train, and those of the validation units, as a real site parts them."""
        chosen = self.trains(train_fraction)
        return self._of(chosen), self._of(~chosen)

    def trains(self, train_fraction: float) -> NDArray[np.bool_]:
        """Which units train, bool [num_units]."""
        return trains(self.points, train_fraction)

    def of(self, chosen: NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """Which records are of the chosen units, and these records' units, numbered anew."""
        return taken(self.units, chosen)

    def _of(self, chosen: NDArray[np.bool_]) -> "Records":
        kept, units = self.of(chosen)
        return Records(
            [self.texts[index] for index in kept],
            self.labels[kept],
            units,
            int(chosen.sum()),
            self.points[chosen],
            [self.tags[index] for index in kept] if self.tags else (),
        )


@dataclass(frozen=True)
class SimulationData:
    """Everything that is simulated on. units: one id a row; columns: further ones, for `column:NAME` partitions;
    separator: between several labels of one row, where the plan's task has several."""

    texts: Sequence[str]
    labels: Sequence[str]
    units: Sequence[str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    test_texts: Sequence[str] = ()
    test_labels: Sequence[str] = ()
    by_record: bool = False
    separator: str = ";"

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.units):
            raise ConfigError("Expected as many labels and units as texts.")
        if len(self.test_texts) != len(self.test_labels):
            raise ConfigError("Expected as many test labels as test texts.")

    def sites(self, spec: str, task: TaskSpec | Sequence[str], *, num_sites: int, seed: int) -> dict[str, Records]:
        """Virtual sites by name. A unit is at one site only, but where a column says otherwise. task: the plan's;
        labels alone are those of a classification. Where a row has several labels, it is parted by the first.

        Raises: ConfigError.
        """
        units, labels = None if self.by_record else self.units, self.labels
        if isinstance(task, TaskSpec) and task.kind == "multilabel":
            labels = [next(iter(codes(cell, self.separator)), "") for cell in self.labels]
        if isinstance(task, TaskSpec) and task.kind == "tokens":
            labels = [main_type(cell) for cell in self.labels]
        rows = partition(spec, labels=labels, columns=self.columns, units=units, num_sites=num_sites, seed=seed)
        width = len(str(max(0, len(rows) - 1)))
        named: dict[str, Records] = {}
        for index, chosen in enumerate(rows):
            name = _plain_name(f"site-{index:0{width}d}", named)
            if spec.startswith("column:") and len(chosen):
                name = _plain_name(self.columns[spec.removeprefix("column:")][int(chosen[0])], named)
            named[name] = self._take(chosen, task, split_key(f"simulation {seed} {name}".encode()))
        return named

    def truth(self, task: TaskSpec | Sequence[str]) -> Targets:
        """The targets of the test rows. Raises: ConfigError for a label that the plan does not have."""
        found = self._targets(self.test_labels, task)
        if not known(found).all():
            raise ConfigError(
                "a test row has a label that the plan does not have.", where="test_labels", mend="leave it out."
            )
        return found

    def test_tags(self, task: TaskSpec) -> list[Tags | None]:
        """The tags of the test rows, where the task labels tokens."""
        return read_tags(self.test_texts, self.test_labels, _numbered(task))

    def _targets(self, cells: Sequence[str], task: TaskSpec | Sequence[str]) -> Targets:
        chosen = task_of(task)
        plan = {label: index for index, label in enumerate(chosen.spec.labels)}
        return chosen.targets(cells, plan, self.separator)

    def _take(self, rows: Integers, task: TaskSpec | Sequence[str], key: bytes) -> Records:
        units: dict[str, int] = {}
        for row in rows:
            units.setdefault(str(row) if self.by_record else plain(self.units[row]), len(units))
        members = [units[str(row) if self.by_record else plain(self.units[row])] for row in rows]
        return Records(
            [self.texts[row] for row in rows],
            self._targets([self.labels[row] for row in rows], task),
            np.array(members, np.int64),
            len(units),
            np.array([point(key, unit.encode("utf-8", "surrogatepass")) for unit in units], np.uint64),
            self._tags(rows, task),
        )

    def _tags(self, rows: Integers, task: TaskSpec | Sequence[str]) -> Sequence[Tags | None]:
        if not isinstance(task, TaskSpec) or task.kind != "tokens":
            return ()
        return read_tags([self.texts[row] for row in rows], [self.labels[row] for row in rows], _numbered(task))


def _numbered(task: TaskSpec) -> dict[str, int]:
    return {label: index for index, label in enumerate(task.labels)}


def _plain_name(value: str, taken: Mapping[str, object]) -> str:
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in value.lower()).strip("-")[:60] or "site"
    while name in taken:
        name += "-"
    return name


def load_data(spec: SimulationSpec, task: TaskSpec | Sequence[str]) -> SimulationData:
    """The file that `[simulation]` names, or generated text where the plan's labels are those of a generator.

    task: the plan's; labels alone are those of a classification. Raises: DataError, ConfigError.
    """
    if spec.data is None:
        return generated(task, seed=spec.seed)
    if isinstance(task, TaskSpec) and task.kind == "tokens":
        further = [name for name in wanted_columns(spec) if name not in (spec.text, spec.label)]
        table = read_tagged(spec.data, spec.text, spec.label, further, encoding=spec.encoding)
        return from_table(table, spec, task, str(spec.data))
    lists = {spec.label: spec.label_separator}
    table = read_columns(spec.data, wanted_columns(spec), encoding=spec.encoding, lists=lists)
    return from_table(table, spec, task, str(spec.data))


def wanted_columns(spec: SimulationSpec) -> list[str]:
    """The columns of a file or a table that `spec` speaks of."""
    further = [spec.split] if spec.split else []
    if spec.partition.startswith("column:"):
        further.append(spec.partition.removeprefix("column:"))
    return list(dict.fromkeys([spec.text, spec.label, *([] if spec.unit == "record" else [spec.unit]), *further]))


def from_table(table: Table, spec: SimulationSpec, task: TaskSpec | Sequence[str], where: str) -> SimulationData:
    """What the wanted columns hold; `where` names their source in errors. Raises: DataError."""
    by_record, wanted = spec.unit == "record", wanted_columns(spec)
    rows = [
        row
        for row, text in enumerate(table.columns[spec.text])
        if text and text.strip() and (by_record or (table.columns[spec.unit][row] or "").strip())
    ]
    if not rows:
        raise DataError("no row has text.", where=where, mend="correct simulation.text or simulation.unit.")
    units = [str(row) if by_record else (table.columns[spec.unit][row] or "").strip() for row in rows]
    if spec.split:
        test = np.array([(table.columns[spec.split][row] or "").strip() == "test" for row in rows])
    else:
        names = sorted(set(units))
        order = np.random.Generator(np.random.PCG64(spec.seed)).permutation(len(names))
        held = {names[index] for index in order[: max(1, len(names) // 5)]}
        test = np.array([unit in held for unit in units])
    cells, chosen = [(table.columns[spec.label][row] or "").strip() for row in rows], task_of(task)
    plan = {label: index for index, label in enumerate(chosen.spec.labels)}
    if chosen.spec.kind == "multilabel":
        parted = [codes(cell, spec.label_separator) for cell in cells]
        mapped = [spec.label_separator.join(spec.label_map.get(code, code) for code in part) for part in parted]
    elif chosen.spec.kind == "tokens":
        mapped = [respelled(cell, spec.label_map) for cell in cells]
    else:
        mapped = [spec.label_map.get(local, local) for local in cells]
    targets = chosen.targets(mapped, plan, spec.label_separator)
    train = np.flatnonzero(~test)
    columns = {name: [(table.columns[name][rows[i]] or "").strip() for i in train] for name in wanted}
    if not per_label(targets, len(plan)).any():
        raise DataError(
            "no row has one of the plan's labels.",
            where=f"{where}: {spec.label}",
            mend="correct task.labels, simulation.label or simulation.label_map.",
        )
    judged = np.flatnonzero(test & known(targets)).tolist()
    texts = table.columns[spec.text]
    return SimulationData(
        texts=[texts[rows[i]] or "" for i in train],
        labels=[mapped[i] for i in train],
        units=[units[i] for i in train],
        columns=columns,
        test_texts=[texts[rows[i]] or "" for i in judged],
        test_labels=[mapped[i] for i in judged],
        by_record=by_record,
        separator=spec.label_separator,
    )


def generated(
    task: TaskSpec | Sequence[str], *, seed: int = 0, num_sites: int = 3, num_units: int = 600
) -> SimulationData:
    """Hospital notes or bank complaints, whichever has these labels, or for several labels a note hospital notes that
    speak of several specialties; `column:site` gives the generator's own sites.

    task: the plan's; labels alone are those of a classification. Raises: ConfigError where nothing fits it.
    """
    from privet.simulations.corpus import bank_complaints, hospital_notes, public_sample
    from privet.simulations.corpus.bank import LABELS as BANK
    from privet.simulations.corpus.codes import coded_notes, public_coded_notes
    from privet.simulations.corpus.hospital import LABELS as HOSPITAL
    from privet.simulations.corpus.tagged import TYPES, tagged_notes

    spec = task_of(task).spec
    labels = spec.labels
    if spec.kind == "multilabel" and set(labels) == set(HOSPITAL):
        test = public_coded_notes(num_sites=num_sites, seed=seed)
        corpus = coded_notes(num_sites=num_sites, num_patients=num_units, seed=seed)
    elif spec.kind == "classification" and set(labels) == set(HOSPITAL):
        test = public_sample("hospital", num_sites=num_sites, seed=seed)
        corpus = hospital_notes(num_sites=num_sites, num_patients=num_units, seed=seed)
    elif spec.kind == "tokens" and set(labels) == set(TYPES):
        test = tagged_notes(num_sites=num_sites, num_patients=max(1, num_units // 3), seed=seed, public=True)
        corpus = tagged_notes(num_sites=num_sites, num_patients=num_units, seed=seed)
    elif spec.kind == "classification" and set(labels) == set(BANK):
        test = public_sample("bank", num_sites=num_sites, seed=seed)
        corpus = bank_complaints(num_sites=num_sites, num_customers=num_units, seed=seed)
    else:
        raise ConfigError(
            "there is no generated text with the plan's labels.",
            where="task.labels",
            mend="give --data PATH, or take the labels of the generated notes: " + ", ".join(HOSPITAL),
        )
    return SimulationData(
        texts=corpus.text,
        labels=corpus.label,
        units=corpus.unit,
        columns={"site": list(corpus.site)},
        test_texts=test.text,
        test_labels=test.label,
    )
