"""The server's state after each round, written atomically: all that a server which is started again goes on from.

`round-00000` is written before the first request. A round with an evaluation is written twice: before the sites are
asked for metrics, and once these are in.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from privet.common.adapter import digest
from privet.common.errors import ModelError, RunError
from privet.common.live import Event
from privet.common.methods import State
from privet.common.privacy.statement import Statement
from privet.server.judgement import Judged, Standing


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next round and the report depend on."""

    plan_digest: str
    round: int  # the last one that was run
    completed: int  # rounds that were aggregated
    state: State
    sampler: dict[str, object]  # numpy bit generator's state: who is chosen next
    standing: Standing = field(default_factory=Standing)  # the best round so far, and what patience is left
    row: Event | None = None  # the round's event; it is told only after this is written
    due: int | None = None  # the number of the evaluation that the row still waits for
    statements: Mapping[str, Statement] = field(default_factory=dict)  # of every site that agreed so far
    simulation: Mapping[str, Any] = field(default_factory=dict)  # what a simulation needs beside; empty for a server


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write `round-NNNNN.safetensors`: whole or not at all, durable before this returns."""
    from safetensors.numpy import save

    arrays = {f"adapter/{name}": array for name, array in checkpoint.state.arrays.items()}
    arrays |= {f"momentum/{name}": array for name, array in checkpoint.state.momentum.items()}
    standing = checkpoint.standing
    arrays |= {f"best/{name}": array for name, array in (standing.arrays or {}).items()}
    note = {
        "plan_digest": checkpoint.plan_digest,
        "round": checkpoint.round,
        "completed": checkpoint.completed,
        "sampler": checkpoint.sampler,
        "best": None if standing.best is None else asdict(standing.best),
        "improved": None if standing.improved is None else asdict(standing.improved),
        "waited": standing.waited,
        "row": checkpoint.row,
        "due": checkpoint.due,
        "statements": {name: statement.to_json() for name, statement in checkpoint.statements.items()},
        "simulation": dict(checkpoint.simulation),
        "content": digest(arrays),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{checkpoint.round:05d}.safetensors"
    write_durably(path, save(arrays, metadata={"privet": json.dumps(note)}))
    return path


def write_durably(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path`: whole or not at all, and on the disk before this returns.

    Raises: OSError; what was at `path` is then as it was.
    """
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk is full of it, too
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the name, too
    finally:
        os.close(descriptor)


@contextmanager
def writing(where: Path, then: str) -> Iterator[None]:
    """then: how to go on once there is room. Raises: RunError for what the file system refuses within."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot be written ({error.strerror or error}).",
            where=str(error.filename or where),
            mend=f"free space, or make it writable, then {then}.",
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one back, checked against its digest; an older one may lack what was added since.

    Raises: ModelError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["privet"])
        arrays = load(data)
        if digest(arrays) != note.get("content", digest(arrays)):
            raise ValueError("altered")
        parts: dict[str, dict[str, Any]] = {"adapter": {}, "momentum": {}, "best": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = array
        state = State(parts["adapter"], parts["momentum"])
        known = note["plan_digest"], note["round"], note["completed"], state, note["sampler"]
        best, improved = (_judged(note.get(name)) for name in ("best", "improved"))
        standing = Standing(best, parts["best"] or None, improved, note.get("waited", 0))
        statements = {name: Statement.from_json(raw) for name, raw in note.get("statements", {}).items()}
        row, due, simulation = note.get("row"), note.get("due"), note.get("simulation", {})
        return Checkpoint(*known, standing, row=row, due=due, statements=statements, simulation=simulation)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError("not a readable checkpoint.", where=str(path), mend="use an earlier round's.") from None


def _judged(raw: dict[str, Any] | None) -> Judged | None:
    return None if raw is None else Judged(**raw)
