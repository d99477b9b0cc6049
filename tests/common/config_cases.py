"""The two files as small as they may be, and what the tests of the configuration do with them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from privet.common.config import Plan, load_federation
from privet.common.errors import ConfigError

Raw = dict[str, Any]
FEDERATION: Raw = {
    "format": 1,
    "name": "hospitals",
    "task": {"labels": ["calm", "urgent"]},
    "model": {"base": "package:somewhere", "sha256": "ab" * 32},
    "training": {"rounds": 10, "expected_batch": 64, "learning_rate": 0.5},
}
SITE: Raw = {
    "format": 1,
    "name": "north",
    "data": {"id": "0f" * 16, "source": "notes.csv", "text": "note", "label": "class", "unit": "patient"},
    "budget": {"epsilon": 8.0, "delta": 1e-5, "declared_units": 1000},
    "federation": {
        "hospitals": {"address": "server.example:9092", "ca": "ca.crt", "key": "north.key", "epsilon": 3, "delta": 1e-5}
    },
}
RECORDS: Raw = SITE["data"] | {"unit": "record", "person": "owner", "max_per_person": 3}


def edited(raw: Raw, key: str, value: Any) -> Raw:
    """A copy with `a.b` set; `value` DROP removes it."""
    result = copy.deepcopy(raw)
    *tables, last = key.split(".")
    table = result
    for part in tables:
        table = table.setdefault(part, {})
    if value is DROP:
        del table[last]
    else:
        table[last] = value
    return result


DROP = object()


def written(folder: Path, raw: Raw, name: str = "file.toml") -> Path:
    path = folder / name
    path.write_text(tomli_w.dumps(raw), encoding="utf-8")
    return path


def plan_in(folder: Path, raw: Raw) -> Plan:
    return load_federation(written(folder, raw)).plan


def refused(call: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.what
    assert caught.value.mend
    return caught.value
