"""A folder that appears whole or not at all: written as a hidden sibling, flushed, checked by its caller, renamed."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from privet.common.errors import ConfigError, RunError
from privet.common.exported import MARKER

__all__ = ["check_target", "clear_leftovers", "replaced"]


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A draft folder that takes `folder`'s place when the block ends well, and is removed when it does not.

    Every file reaches the disk before the renaming. Raises: RunError for what the file system refuses.
    """
    folder = folder.absolute()
    mark = secrets.token_hex(4)
    draft, old = folder.with_name(f".{folder.name}.{mark}.new"), folder.with_name(f".{folder.name}.{mark}.old")
    lock = None
    try:
        draft.mkdir(parents=True)
        lock = os.open(draft, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # told by it from one that a kill left behind
        yield draft
        mode = (draft / "plan.toml").stat().st_mode
        for path in [*draft.rglob("*"), draft]:
            if path.is_file():
                path.chmod(mode)  # safetensors' writer makes files that only their owner may read
            flush(path)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        flush(folder.parent)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise RunError(
            f"cannot be written ({error.strerror or type(error).__name__}).",
            where=str(folder),
            mend="check the disk's free space and the folder's permissions.",
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_target(folder: Path, *, force: bool) -> None:
    """Refuse a place where something lies: `force` replaces an earlier export, and nothing else.

    Raises: ConfigError.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError("this is no folder.", where=str(folder), mend="give another: --out FOLDER.")
    try:
        if not folder.exists() or not any(folder.iterdir()):
            return
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}).", where=str(folder), mend="give another.") from None
    if not (folder / MARKER).is_file():
        raise ConfigError(
            f"the folder holds files that are no export of privet's (it has no {MARKER}).",
            where=str(folder),
            mend="give another: --out FOLDER.",
        )
    if not force:
        raise ConfigError(
            "the folder holds an export.", where=str(folder), mend="give another: --out FOLDER, or replace it: --force."
        )


def clear_leftovers(folder: Path) -> list[str]:
    """Remove what a kill left of earlier exports to `folder`; returns a sentence on each thing done.

    An old folder that was set aside, while none stands in its place, is put back.
    Raises: RunError where another process is writing to it now, or the file system refuses.
    """
    folder = folder.absolute()
    told = []
    try:
        for draft in _siblings(folder, "new"):
            if _is_held(draft):
                raise RunError(
                    "another process is exporting to it.", where=str(folder), mend="wait for it, or give another."
                )
            shutil.rmtree(draft)
            told.append(f"removed a half-written export, {draft.name}")
        for old in _siblings(folder, "old"):
            if folder.exists():
                shutil.rmtree(old)
                told.append(f"removed {old.name}, which {folder.name} had replaced")
            else:
                old.rename(folder)
                told.append(f"put {folder.name} back, which a stopped export had set aside")
    except OSError as error:
        raise RunError(
            f"what an earlier export left cannot be removed ({error.strerror}).",
            where=str(error.filename or folder),
            mend="remove it.",
        ) from None
    return told


def _siblings(folder: Path, ending: str) -> list[Path]:
    hexadecimal = set("0123456789abcdef")
    found = []
    if folder.parent.is_dir():
        for path in sorted(folder.parent.iterdir()):
            mark = path.name.removeprefix(f".{folder.name}.").removesuffix(f".{ending}")
            exact = path.name == f".{folder.name}.{mark}.{ending}" and len(mark) == 8 and set(mark) <= hexadecimal
            if exact and path.is_dir() and not path.is_symlink():
                found.append(path)
    return found


def _is_held(draft: Path) -> bool:
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        return True
    finally:
        os.close(descriptor)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
