"""The mark of an export: privet.json, by which a folder is known for what it is, and for whole."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from privet.common.errors import ModelError

__all__ = ["KINDS", "MARKER", "Exported", "Kind", "read_marker", "write_marker"]

Kind = Literal["merged", "onnx", "onnx-int8", "sentence-transformers"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MARKER = "privet.json"
_EDITED = ("README.md",)  # people add to it


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What a folder holds. files: SHA-256 by path within the folder, all but the card and this mark."""

    kind: Kind
    plan_digest: str
    files: dict[str, str]
    check: dict[str, Any]  # what the comparison with the adapter found; empty where none was made


def write_marker(folder: Path, kind: Kind, plan_digest: str, check: dict[str, Any] | None = None) -> None:
    """Write the mark of the files as they are: the last thing that is done to an export."""
    document = {
        "format": 1,
        "kind": kind,
        "plan_digest": plan_digest,
        "check": check or {},
        "files": {name: _digest(folder / name) for name in _names(folder)},
    }
    (folder / MARKER).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_marker(folder: Path, *, whole: bool = True) -> Exported:
    """The mark of an export whose files are all there, and as they were written.

    whole: read every file; without it the files' being there is enough.

    Raises: ModelError where the folder is no export, or one that was damaged or half copied.
    """
    path = folder / MARKER
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        files, check = raw["files"], raw["check"]
        sound = raw["format"] == 1 and raw["kind"] in KINDS and isinstance(check, dict)
        sound = sound and re.fullmatch("[0-9a-f]{64}", raw["plan_digest"]) is not None
        sound = sound and all(isinstance(value, str) and _within(name) for name, value in files.items())
    except FileNotFoundError:
        raise ModelError(
            f"no export of privet's: it has no {MARKER}.", where=str(folder), mend="make one with `privet export`."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"it cannot be read ({type(error).__name__}).") from None
    if not sound:
        raise _damaged(path, "it is not what this version writes.")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise _damaged(folder, f"the export lacks {name}.")
        if whole and _digest(folder / name) != expected:
            raise _damaged(folder / name, "it is not as it was written.")
    return Exported(kind=cast(Kind, raw["kind"]), plan_digest=raw["plan_digest"], files=files, check=check)


def _names(folder: Path) -> list[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in paths if name != MARKER and name not in _EDITED)


def _within(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror}).") from None


def _damaged(where: Path, what: str) -> ModelError:
    return ModelError(what, where=str(where), mend="copy the export again, or make it again with `privet export`.")
