"""What was asked of whom: durable before the requests go out, so that a server that is started again asks the same.

A site answers a round, or an evaluation, for one content only: the same bytes again get the stored reply, and other
bytes are refused. So the content's digest is kept here, too.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from privet.server.checkpoint import write_durably

Kind = Literal["train", "evaluate"]
_KEPT = 4  # of each kind: the two newest checkpoints need no more


@dataclass(frozen=True)
class Asked:
    """The sites of one round, or of one evaluation by its number, and the digest of their request."""

    kind: Kind
    number: int
    names: tuple[str, ...]
    sha256: str
    sampler: dict[str, object] | None = None  # after the cohort was drawn


def save_asked(asked: Asked, folder: Path) -> None:
    """Write `asked-KIND-NNNNN.json`, durably; the newest few stay. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"asked-{asked.kind}-{asked.number:05d}.json", json.dumps(asdict(asked)).encode())
    for old in sorted(folder.glob(f"asked-{asked.kind}-*.json"))[:-_KEPT]:
        old.unlink()


def load_asked(folder: Path) -> dict[tuple[Kind, int], Asked]:
    """By kind and number. One that cannot be read is of nobody, and of a content that no request has."""
    found: dict[tuple[Kind, int], Asked] = {}
    kinds: tuple[Kind, ...] = ("train", "evaluate")
    for kind in kinds:
        for path in sorted(folder.glob(f"asked-{kind}-*.json")):
            number = int(path.stem.rpartition("-")[2])
            found[kind, number] = Asked(kind, number, (), "")
            try:
                raw = json.loads(path.read_text(encoding="utf-8"))
                names = tuple(map(str, raw["names"]))
                found[kind, number] = Asked(kind, number, names, str(raw["sha256"]), raw["sampler"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
    return found
