"""Starter files: made once, together or not at all, never over an existing file; and their templates."""

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.common.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to be made; `private` ones are readable by their owner only (mode 0600)."""

    path: Path
    content: bytes
    private: bool = False

    def __repr__(self) -> str:
        return f"NewFile(path={self.path!r}, private={self.private})"


def _refuse_existing(path: Path) -> ConfigError:
    return ConfigError(
        "exists already, and nothing is overwritten.",
        where=str(path),
        mend="edit it, move it away, or choose another folder.",
    )


def create_files(files: Sequence[NewFile]) -> None:
    """Make all `files` and their folders; after a failure none of them is left.

    Raises: ConfigError where one exists or cannot be written; an existing file is never touched.
    """
    made: list[Path] = []
    path = Path()
    try:
        for file in files:
            path = file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            # O_EXCL: what exists is refused at the moment of making, and a link is refused rather than followed.
            mode = 0o600 if file.private else 0o644
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(path)
            _write(descriptor, file.content)
    except BaseException as error:
        for half_done in made:
            half_done.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise _refuse_existing(path) from None
        if isinstance(error, OSError):
            raise _cannot_write(error, path) from None
        raise


def new_file(path: Path, content: bytes) -> None:
    """Make one public file (mode 0644), whole or not at all.

    Raises: ConfigError where it exists or cannot be written; an existing file is never touched.
    """
    create_files([NewFile(path=path, content=b"")])  # claims the name
    try:
        replace_file(path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Put `content` (mode 0644, `private` 0600) in the place of `path` at once: a reader sees the old file or the new.

    Raises: ConfigError.
    """
    draft = ""
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _write(descriptor, content)
        os.chmod(draft, 0o600 if private else 0o644)
        os.replace(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise _cannot_write(error, path) from None


def render(template: str, **values: Any) -> str:
    """The text of `templates/<template>`; its filter `toml` writes text, numbers and lists as TOML values."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("privet.common"),
        undefined=StrictUndefined,
        autoescape=False,  # TOML, not HTML: every value passes through the filter
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["toml"] = toml_value
    return environment.get_template(template).render(**values)


def toml_value(value: object) -> str:
    """`value` (str, int, float, or a list of these) as a TOML value on one line.

    A JSON string is a TOML basic string, but for DEL, which TOML wants escaped too.
    Raises: ConfigError for text that is not Unicode (an argument of other bytes).
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"got {value!r}, which is not valid UTF-8.", mend="write it in UTF-8.") from None
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Expected text, a number or a list, got {type(value).__name__}.")
    return repr(value)


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cannot_write(error: OSError, path: Path) -> ConfigError:
    return ConfigError(
        f"cannot be written ({error.strerror or error}).", where=str(path), mend="give a folder that can be written to."
    )
