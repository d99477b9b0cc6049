"""A trained adapter under another label set: the last layer's rows, put where the operator said.

`[server] init_labels` maps each new label to one of the earlier run, or to "" for a row of zeros; a label of both that
it does not name keeps its row. The other arrays stay as they are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from privet.common.adapter import AdapterSpec, Arrays, Floats, Role
from privet.common.config.task import TaskSpec
from privet.common.errors import ConfigError
from privet.common.tasks.base import Task, task_of

NEW = ""  # stands for no earlier label: none is empty
_KEY = "server.init_labels"


def relabelled(
    arrays: Arrays, spec: AdapterSpec, earlier: TaskSpec, now: TaskSpec, mapping: Mapping[str, str]
) -> dict[str, Floats]:
    """The earlier run's arrays, the last layer's rows in the order of the labels of `now`. spec: of the earlier run.

    Raises: ConfigError where the label sets differ and nothing is said, or something that is not so.
    """
    if not mapping and earlier.labels == now.labels:
        return dict(arrays)
    if not mapping:
        raise _changed(earlier.labels, now.labels)
    sources = _sources(task_of(earlier), task_of(now), resolved(earlier.labels, now.labels, mapping))
    taken = np.array([-1 if source is None else source for source in sources])
    made = dict(arrays)
    for entry in spec.entries:
        if entry.role is Role.HEAD:
            rows = arrays[entry.name][taken]
            rows[taken < 0] = 0.0
            made[entry.name] = np.ascontiguousarray(rows)
    return made


def resolved(earlier: Sequence[str], now: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Each new label's earlier one, or NEW.

    Raises: ConfigError.

    >>> resolved(("calm", "acute"), ("urgent", "calm", "other"), {"urgent": "acute", "other": ""})
    {'urgent': 'acute', 'calm': 'calm', 'other': ''}
    """
    strangers = [label for label in mapping if label not in now]
    if strangers:
        raise ConfigError(
            f"{strangers[0]!r} is no label of the plan.",
            where=_KEY,
            mend=f"name labels of the plan: {_listed(now)}.",
        )
    found = {label: mapping.get(label, label) for label in now}
    for label, source in found.items():
        if source != NEW and source not in earlier:
            what = f"the earlier adapter has no label {source!r}"
            what += "." if label in mapping else ", and nothing says where the new one's row comes from."
            mend = f'map {label!r} to one of {_listed(earlier)}, or to "" for a row of zeros.'
            raise ConfigError(what, where=f"{_KEY}.{label}", mend=mend)
    return found


def _sources(earlier: Task, now: Task, labels: Mapping[str, str]) -> list[int | None]:
    """For each output the number of the earlier one; None for a new one."""
    places = {name: place for place, name in enumerate(earlier.output_names)}
    found: list[int | None] = []
    for name in now.output_names:
        if name in labels:
            wanted: str | None = labels[name] or None
        elif name[2:] in labels:  # of a tag: "B-Disease"
            wanted = name[:2] + labels[name[2:]] if labels[name[2:]] else None
        else:  # what no label names: a token outside of every entity
            wanted = name
        found.append(None if wanted is None else places[wanted])
    return found


def _changed(earlier: Sequence[str], now: Sequence[str]) -> ConfigError:
    added = [label for label in now if label not in earlier]
    removed = [label for label in earlier if label not in now]
    told = [f"{what} {_listed(labels)}" for what, labels in (("added", added), ("removed", removed)) if labels]
    words = "; ".join(told) or "the same ones in another order"
    example = f'"{added[0]}" = ""' if added else f'"{now[0]}" = "{now[0]}"'
    return ConfigError(
        f"the adapter was trained with other labels: {words}.",
        where="task.labels",
        mend=f"set the plan's labels to what it was trained with, or say in [{_KEY}] which earlier label each new one "
        f'takes its row from, "" for none: {example}.',
    )


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(map(repr, labels[:8])) + more
