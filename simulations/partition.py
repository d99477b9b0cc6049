"""Who holds which rows: the partitions of a simulated federation.

`iid`            units shuffled and dealt out in equal shares
`dirichlet:α`    each class is shared out by its own Dirichlet(α) draw (Yurochkin et al. 2019): the smaller α, the more
                 uneven are both the classes and the sizes of sites
`column:NAME`    one site for each value of a column, in sorted order: data that came from several sites

In `iid` and `dirichlet` a unit (a patient, a customer) is never split over two sites: privacy is stated per site, and a
split unit would spend at both. A column is taken as it is: a person who was treated at two hospitals is at two sites.
"""

import contextlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from privet.common.columns import plain
from privet.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from types import ModuleType

Rows = NDArray[np.int64]


def partition(
    spec: str,
    *,
    labels: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    units: Sequence[str] | None,
    num_sites: int,
    seed: int,
) -> list[Rows]:
    """Row indices by virtual site, ascending; every row is at exactly one site, and a site may be empty.

    `labels`, `units` and each of `columns` hold one value a row. Without `units` each row is a unit of its own; ids are
    compared as sites compare them (NFC, trimmed). With `column:NAME`, `num_sites` is 0 (as many as there are values) or
    at least that many; else it is at least 1. The same arguments give the same partition under the same numpy and
    flwr-datasets; `iid` needs numpy alone.

    Raises ConfigError on a spec that cannot be met or where flwr-datasets is missing, DataError on a blank value in
    the column.
    """
    kind, _, argument = spec.partition(":")
    if kind == "column" and argument:
        return _by_column(argument, columns, num_sites)
    if kind == "dirichlet" and argument:
        alpha = _alpha(argument)
        members, main_labels = _units(labels, units)
        _expect_sites(num_sites, len(members))
        sites = _dirichlet(main_labels, alpha, num_sites, seed)
    elif spec == "iid":
        members, _ = _units(labels, units)
        _expect_sites(num_sites, len(members))
        sites = _iid(len(members), num_sites, seed)
    else:
        raise ConfigError(f"Unknown partition {spec!r}.", mend="Expected iid, dirichlet:ALPHA or column:NAME.")
    return [_sorted(row for unit in site for row in members[unit]) for site in sites]


def _units(labels: Sequence[str], units: Sequence[str] | None) -> tuple[list[list[int]], list[str]]:
    """The rows of each unit, and the label most of them have (of several, the first in the alphabet)."""
    if units is None:
        return [[row] for row in range(len(labels))], list(labels)
    members: dict[str, list[int]] = {}
    for row, unit in enumerate(units):
        members.setdefault(plain(unit), []).append(row)
    rows = list(members.values())
    return rows, [_majority([labels[row] for row in unit]) for unit in rows]


def _majority(labels: list[str]) -> str:
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def _iid(num_units: int, num_sites: int, seed: int) -> list[Sequence[int]]:
    order = np.random.Generator(np.random.Philox(seed)).permutation(num_units)
    return [site.tolist() for site in np.array_split(order, num_sites)]


def _dirichlet(labels: list[str], alpha: float, num_sites: int, seed: int) -> list[Sequence[int]]:
    datasets, partitioners = _libraries()
    # Sites of any size are legal: a minimum would redraw, and at a thousand sites fail. Balancing would take away the
    # last classes from sites that the first ones filled.
    partitioner = partitioners.DirichletPartitioner(
        num_partitions=num_sites,
        partition_by="label",
        alpha=alpha,
        min_partition_size=0,
        self_balancing=False,
        shuffle=False,
        seed=seed,
    )
    return _load(partitioner, datasets.Dataset.from_dict({"row": range(len(labels)), "label": labels}))


def _by_column(name: str, columns: Mapping[str, Sequence[str]], num_sites: int) -> list[Rows]:
    if name not in columns:
        raise ConfigError(f"No column {name!r}.", where="partition", mend=f"One of: {', '.join(columns)}.")
    values = columns[name]
    blank = next((row for row, value in enumerate(values) if not value.strip()), None)
    if blank is not None:
        raise DataError("This row is at no site: its value is blank.", where=f"column {name}, row {blank + 1}")
    num_values = len(set(values))
    if num_sites != 0 and num_sites < num_values:
        raise ConfigError(
            f"Column {name!r} has {num_values} values, more than {num_sites} sites.",
            where="partition",
            mend=f"Ask for {num_values} sites or more.",
        )
    datasets, partitioners = _libraries()
    partitioner = partitioners.NaturalIdPartitioner(partition_by=name)
    data = datasets.Dataset.from_dict({"row": range(len(values)), name: list(values)})
    sites = [_sorted(site) for site in _load(partitioner, data)] if num_values else []
    return sites + [_sorted(()) for _ in range(num_sites - num_values)]


def _load(partitioner: Any, data: Any) -> list[Sequence[int]]:
    """The column `row` of each partition."""
    partitioner.dataset = data
    with contextlib.redirect_stderr(io.StringIO()):  # the library draws a progress bar and cannot be told not to
        return [partitioner.load_partition(site)["row"][:] for site in range(partitioner.num_partitions)]


def _alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not (0 < alpha < math.inf):
        raise ConfigError(
            f"Expected a number alpha > 0, got {text!r}.", where="partition", mend="Such as dirichlet:0.3."
        )
    return alpha


def _expect_sites(num_sites: int, num_units: int) -> None:
    if num_sites < 1:
        raise ConfigError(f"Expected at least 1 site, got {num_sites}.", where="partition")
    if num_units < num_sites:
        raise ConfigError(
            f"{num_units} units cannot be dealt out to {num_sites} sites.",
            where="partition",
            mend=f"Ask for {num_units} sites or fewer, or bring more data.",
        )


def _sorted(rows: Any) -> Rows:
    return np.array(sorted(rows), dtype=np.int64)


def _libraries() -> tuple["ModuleType", "ModuleType"]:
    """`datasets` and `flwr_datasets.partitioner`: four seconds to import, and absent from a site's installation."""
    try:
        import datasets
        import flwr_datasets.partitioner
    except ImportError as error:
        raise ConfigError(
            "Partitions need flwr-datasets, which is not installed.", mend='pip install "privet[simulation]"'
        ) from error
    return datasets, flwr_datasets.partitioner
