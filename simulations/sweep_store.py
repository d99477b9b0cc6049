"""The folder of a sweep: one file a finished run, written whole or not at all, found again by all that decides it."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from privet.common.config import Plan, SimulationSpec
from privet.common.errors import RunError
from privet.server.checkpoint import write_durably, writing
from privet.simulations.data import SimulationData

_AGAIN = "give the same command again"


class Store:
    """Results by key; without a folder they are kept in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._kept: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Make the folder and hold it alone. Raises: RunError where another process holds it."""
        if self.folder is None:
            yield
            return
        with writing(self.folder, _AGAIN):
            (self.folder / "trials").mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    "another process runs this sweep.", where=str(self.folder), mend="wait for it, or end it."
                ) from None
            yield
        finally:
            os.close(lock)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was stored under the key; None for what is not there or was damaged since."""
        if key in self._kept or self.folder is None:
            return self._kept.get(key)
        try:
            found = json.loads((self.folder / "trials" / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("key") == key else None

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Durable when this returns. Raises: RunError."""
        self._kept[key] = {"key": key, **result}
        if self.folder is not None:
            self.write(f"trials/{key}.json", json_text(self._kept[key]))

    def write(self, name: str, content: str | bytes) -> None:
        """A file of the folder, in place of the old one. Raises: RunError."""
        if self.folder is None:
            return
        with writing(self.folder / name, _AGAIN):
            write_durably(self.folder / name, content.encode() if isinstance(content, str) else content)


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def run_key(plan: Plan, spec: SimulationSpec, sites: int, epsilon: Sequence[float], data: str) -> str:
    """SHA-256 of everything that decides one run's result: plan, data, seed, budgets, and the version of privet.

    data: its digest; where the file lies is of no account.
    """
    return _digest(
        [
            "privet sweep run",
            version("privet"),
            plan.canonical(),
            spec.model_dump(mode="json", exclude={"data"}),
            sites,
            [repr(float(value)) for value in epsilon],
            data,
        ]
    )


def data_digest(data: SimulationData) -> str:
    """SHA-256 of all texts, labels, units and columns."""
    found = hashlib.sha256()
    columns = {name: list(values) for name, values in data.columns.items()}
    for part in (data.texts, data.labels, data.units, data.test_texts, data.test_labels):
        found.update(_digest(list(part)).encode())
    found.update(_digest([columns, data.by_record]).encode())
    return found.hexdigest()


def folder_name(plan: Plan, definition: Sequence[object]) -> str:
    """The same command finds the same folder."""
    return f"{plan.name}-sweep-{_digest([plan.canonical(), *definition])[:10]}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()
