"""Which folders hold a model to predict with: an adapter, a run with its adapter/, a merged export."""

from pathlib import Path

from privet.common.config import Plan, load_federation
from privet.common.errors import ModelError
from privet.common.exported import MARKER, Exported, read_marker

__all__ = ["damaged", "model_folder", "read_plan"]


def model_folder(path: Path) -> tuple[Path, bool]:
    """The folder that holds the model `path` names, and whether it is a merged export: an adapter, a run with its
    adapter/, or what `privet export --to merged` wrote.

    Raises: ModelError.
    """
    if not path.is_dir():
        raise ModelError("no such folder.", where=str(path), mend="give a finished run's folder, or its adapter/.")
    if (path / MARKER).is_file():
        _marker(path)
        return path, True
    for folder in (path, path / "adapter"):
        if (folder / "plan.toml").is_file() and (folder / "adapter_model.safetensors").is_file():
            return folder, False
    inner = path / "adapter" if (path / "adapter").is_dir() else path
    for name in ("plan.toml", "adapter_model.safetensors"):
        if not (inner / name).is_file():
            raise ModelError(
                f"not a privet adapter: it has no {name}.",
                where=str(inner),
                mend="give a finished run's folder, its adapter/, or a merged export.",
            )
    return inner, False


def read_plan(folder: Path) -> Plan:
    """Of an adapter or a merged export. Raises: ModelError, ConfigError."""
    path = folder / "plan.toml"
    if not path.is_file():
        raise damaged(folder, "the export has no plan.toml.")
    plan = load_federation(path).plan
    if (folder / MARKER).is_file() and _marker(folder).plan_digest != plan.digest:
        raise damaged(folder, "its plan.toml is not the plan that it was exported from.")
    return plan


def _marker(folder: Path) -> Exported:
    """Of a merged export. The files' digests are left to whoever reads the weights. Raises: ModelError."""
    found = read_marker(folder, whole=False)
    if found.kind != "merged":
        raise ModelError(
            f"an export of kind {found.kind!r} is not read here.",
            where=str(folder),
            mend="give the adapter that it came from, or one of `privet export --to merged`.",
        )
    return found


def damaged(folder: Path, what: str) -> ModelError:
    return ModelError(what, where=str(folder), mend="copy the folder again, or make it again with `privet export`.")
