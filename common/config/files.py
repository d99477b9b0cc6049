"""Reading the two files, with errors that name file, key, what is wrong and the mend."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from privet.common.config.bounded import read_json
from privet.common.config.federation import Federation, ServerSpec
from privet.common.config.plan import Plan
from privet.common.config.site import Site
from privet.common.config.source import beside, is_url
from privet.common.config.table import Table
from privet.common.errors import ConfigError

T = TypeVar("T", bound=Table)

_MENDS = {
    "missing": "add this key.",
    "extra_forbidden": "remove this key, or correct its spelling.",
}
_MAX_FAULTS = 1_000  # that are looked at; more are only counted
_MAX_SHOWN = 80  # characters of a key or a value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "no such file.", where=str(path), mend="give its path, or make one with `privet init`."
        ) from None
    except IsADirectoryError:
        raise ConfigError("this is a folder.", where=str(path), mend="give the path of the file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot be read ({error}).", where=str(path), mend="make it a readable UTF-8 file."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}.", where=str(path), mend="correct that line.") from None


def _override(raw: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply `a.b=value` in place; the value is TOML, or else a bare string."""
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not separator or not all(parts):
            raise ConfigError(f"got {assignment!r}.", where="--set", mend="write --set table.key=value.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        table = raw
        for part in parts[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key} is not inside a table.", where="--set", mend="write --set table.key=value.")
        table[parts[-1]] = value


def describe(error: ValidationError, where: str) -> ConfigError:
    """The first problem as one sentence; further ones are counted.

    Keys and values may come from elsewhere: what cannot be printed is written as an escape.
    """
    count = error.error_count()
    if count > _MAX_FAULTS:
        return ConfigError(f"{count:,} faults.", where=where, mend="correct the values.")
    first = error.errors(include_url=False, include_context=False)[0]
    parts = [str(part) for part in first["loc"]]
    key = ".".join(_escaped(part[:_MAX_SHOWN]) for part in parts if not part.startswith(("literal[", "constrained-")))
    message = _escaped(first["msg"].removeprefix("Value error, "))
    given = "" if first["type"] in ("missing", "value_error") else f" (got {str(first['input'])[:_MAX_SHOWN]!r})"
    more = f" ({count - 1} more after this one.)" if count > 1 else ""
    mend = _MENDS.get(first["type"], "correct the value.")
    if first["type"] == "extra_forbidden":
        message = "No such key"
    text = f"{message}{given}" + ("" if message.endswith(".") and not given else ".")
    return ConfigError(text + more, where=f"{where}: {key}" if key else where, mend=mend)


def _escaped(text: str) -> str:
    """`text`, or where it cannot all be printed, as Python writes it between quotes."""
    return text if text.isprintable() else repr(text)[1:-1]


def _validate(kind: type[T], raw: dict[str, Any], where: str) -> T:
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        fault = describe(error, where)
    raise fault  # with no context: pydantic's error quotes what was given, which may hold a password


def _resolve(table: Any, folder: Path, keys: Sequence[str]) -> None:
    """Make the paths under `keys` absolute, in place; what is not text is left for validation to refuse."""
    if isinstance(table, dict):
        for key in keys:
            if isinstance(table.get(key), str):
                table[key] = folder / Path(table[key]).expanduser()


def load_federation(path: Path, assignments: Sequence[str] = ()) -> Federation:
    """federation.toml; relative paths of `[server]` are taken from the file's folder.

    Raises: ConfigError.
    """
    raw = _read(path)
    _override(raw, assignments)
    server = raw.setdefault("server", {})
    keys = [name for name, field in ServerSpec.model_fields.items() if isinstance(field.default, Path)]
    if isinstance(server, dict):
        for key in keys:
            server.setdefault(key, str(ServerSpec.model_fields[key].default))
        _resolve(server, path.parent, [*keys, "init"])
        _resolve(server.get("public"), path.parent, ("source",))
    _resolve(raw.get("simulation"), path.parent, ("data",))
    return _validate(Federation, raw, str(path))


def load_site(path: Path, assignments: Sequence[str] = ()) -> Site:
    """site.toml; relative paths are taken from the file's folder.

    Raises: ConfigError.
    """
    raw = _read(path)
    _override(raw, assignments)
    data = raw.get("data")
    _resolve(data, path.parent, ("exclude", "password_file"))
    if isinstance(data, dict) and isinstance(data.get("source"), str) and is_url(data["source"]):
        data["source"] = beside(data["source"], path.parent)
    else:
        _resolve(data, path.parent, ("source",))
    federations = raw.get("federation")
    for table in federations.values() if isinstance(federations, dict) else ():
        _resolve(table, path.parent, ("ca", "key", "proxy_auth"))
    return _validate(Site, raw, str(path))


def parse_plan(text: str, where: str = "plan") -> Plan:
    """A plan from its JSON text (from the wire, the ledger or an adapter's folder), bounded before it is validated.

    Raises: ConfigError.
    """
    return _validate(Plan, read_json(text, where), where)
