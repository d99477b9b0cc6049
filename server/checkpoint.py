"""The server's state after each round, written atomically: global adapter, momentum, round, sampler, plan."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from privet.common.errors import ModelError
from privet.common.methods import State


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next round depends on."""

    plan_digest: str
    round: int  # the last one that was run
    completed: int  # rounds that were aggregated
    state: State
    sampler: dict[str, object]  # numpy bit generator's state: who is chosen next


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write `round-NNNNN.safetensors`: whole or not at all, durable before this returns."""
    from safetensors.numpy import save

    arrays = {f"adapter/{name}": array for name, array in checkpoint.state.arrays.items()}
    arrays |= {f"momentum/{name}": array for name, array in checkpoint.state.momentum.items()}
    note = {
        "plan_digest": checkpoint.plan_digest,
        "round": checkpoint.round,
        "completed": checkpoint.completed,
        "sampler": checkpoint.sampler,
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
    """Read one back.

    Raises: ModelError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        note = json.loads(header["__metadata__"]["privet"])
        arrays = load(data)
        parts: dict[str, dict[str, object]] = {"adapter": {}, "momentum": {}}
        for name, array in arrays.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = array
        state = State(parts["adapter"], parts["momentum"])  # type: ignore[arg-type]
        return Checkpoint(note["plan_digest"], note["round"], note["completed"], state, note["sampler"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError("not a readable checkpoint.", where=str(path), mend="use an earlier round's.") from None
