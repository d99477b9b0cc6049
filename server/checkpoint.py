"""The server's state after each round, written atomically: adapter, momentum, round, sampler, plan, best round."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from privet.common.errors import ModelError
from privet.common.methods import State
from privet.server.judgement import Judged, Standing


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next round depends on."""

    plan_digest: str
    round: int  # the last one that was run
    completed: int  # rounds that were aggregated
    state: State
    sampler: dict[str, object]  # numpy bit generator's state: who is chosen next
    standing: Standing = field(default_factory=Standing)  # the best round so far, and what patience is left


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
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{checkpoint.round:05d}.safetensors"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(save(arrays, metadata={"privet": json.dumps(note)}))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the name, too
    finally:
        os.close(descriptor)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one back; an older one, written before rounds were compared, knows no best round.

    Raises: ModelError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["privet"])
        arrays = load(data)
        parts: dict[str, dict[str, Any]] = {"adapter": {}, "momentum": {}, "best": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = array
        state = State(parts["adapter"], parts["momentum"])
        known = note["plan_digest"], note["round"], note["completed"], state, note["sampler"]
        best, improved = (_judged(note.get(name)) for name in ("best", "improved"))
        return Checkpoint(*known, Standing(best, parts["best"] or None, improved, note.get("waited", 0)))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError("not a readable checkpoint.", where=str(path), mend="use an earlier round's.") from None


def _judged(raw: dict[str, Any] | None) -> Judged | None:
    return None if raw is None else Judged(**raw)
