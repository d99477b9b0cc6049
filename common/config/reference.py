"""docs/reference.md, made from the models of the two files: every table and key, its values, default and meaning.

A key's meaning is the docstring under its field or, where there is none, the comment beside it. A table's rules are the
docstrings of its validators. A key or a rule without words is an error, so that none goes untold.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from privet.common.config.federation import Federation
from privet.common.config.site import Site
from privet.common.errors import ConfigError
from privet.common.starter import toml_value

_VALIDATORS = ("model_validator", "field_validator")
_FEDERATION = "`federation.toml`: what a federation asks of its sites"
_SITE = "`site.toml`: what a site gives, and what it allows"
_HEAD = """\
# Reference: `federation.toml` and `site.toml`

Written by `privet docs reference` from the models that read the two files; change the words there, not here.

Both files are TOML. A key that is not in these tables is refused, and so is a value of another type: nothing is
converted in silence. A key with a default may be left out; *unset* means that there is then no value. *From* and *to*
include the number, *above* and *below* do not. Paths are taken from the folder of the file. `--set table.key=value` on
a command replaces one key for that command. `privet init` writes both files with comments. What to put there:
[choosing.md](choosing.md); how to begin: the quickstarts for [server](quickstart-server.md), [site](quickstart-site.md)
and [research](quickstart-research.md).
"""
_OF_FEDERATION = """\
Made by `privet init federation`. All but `[server]` and `[simulation]` is the plan: it is known by its digest, every
change of a value makes another digest, and so another plan that each site has to approve. It holds no ε and no δ.
"""
_OF_SITE = """\
Made by `privet init site`. It belongs to the site and never leaves it, and nothing that arrives can raise a limit that
it sets. Passwords do not stand in it.
"""


@dataclass(frozen=True)
class Words:
    """What the source of one model says: the meaning of each field, the rule of each validator. None: nothing."""

    fields: dict[str, str | None]
    rules: dict[str, str | None]


def reference() -> str:
    """The page, in Markdown. Raises: ConfigError, which names each field and validator that lacks words."""
    silent: list[str] = []
    parts = [_HEAD]
    for title, preface, model in ((_FEDERATION, _OF_FEDERATION, Federation), (_SITE, _OF_SITE, Site)):
        parts += [f"\n## {title}\n", preface]
        for path, table in tables(model):
            parts.append(_section(path, table, silent))
    if silent:
        raise ConfigError(
            f"no words for {', '.join(silent)}.",
            where="the models in common/config",
            mend="write a docstring under the field or in the validator, then `privet docs reference --write "
            "docs/reference.md`.",
        )
    return "\n".join(parts).rstrip() + "\n"


def tables(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted name, model) of a file's top level, named by nothing, and of every table in it, in the file's order."""
    yield path, model
    for name, field in model.model_fields.items():
        inner, placeholder = _table_of(field.annotation)
        if inner is not None:
            yield from tables(inner, ".".join(part for part in (path, name, placeholder) if part))


def _section(path: str, model: type[BaseModel], silent: list[str]) -> str:
    words = _words(model)
    rows = []
    for name, field in model.model_fields.items():
        if _table_of(field.annotation)[0] is not None:
            continue
        meaning = words.fields.get(name)
        if not meaning:
            silent.append(f"{model.__name__}.{name}")
        cells = (f"`{name}`", _described(field.annotation, field.metadata), _default(field), meaning or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    silent += [f"{model.__name__}.{name}()" for name, rule in words.rules.items() if not rule]
    lines = [f"### `[{path}]`" if path else "### Top level", ""]
    if path:
        lines += [inspect.cleandoc(model.__doc__ or ""), ""]
    if rows:
        lines += ["| key | values | default | meaning |", "|---|---|---|---|", *rows, ""]
    if words.rules:
        lines += ["Rules:", "", *(f"- {rule}" for rule in words.rules.values()), ""]
    return "\n".join(lines)


def _words(model: type[BaseModel]) -> Words:
    """From the source of the model and of the models that it extends."""
    fields: dict[str, str | None] = {}
    rules: dict[str, str | None] = {}
    for part in reversed(model.__mro__):
        if not issubclass(part, BaseModel) or part is BaseModel:
            continue
        source = textwrap.dedent(inspect.getsource(part))
        (body,) = ast.parse(source).body
        assert isinstance(body, ast.ClassDef)
        comments = _comments(source)
        for node, below in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                said = _docstring(below) or " ".join(comments[line] for line in lines if line in comments)
                fields[node.target.id] = _sentence(" ".join(said.split()))
            elif isinstance(node, ast.FunctionDef) and any(map(_validates, node.decorator_list)):
                rules[node.name] = " ".join((ast.get_docstring(node) or "").split()) or None
    return Words(fields, rules)


def _sentence(words: str) -> str | None:
    return words[0].upper() + words[1:].rstrip(".") + "." if words else None


def _comments(source: str) -> dict[int, str]:
    """Comments by line, without those that address a tool."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    told = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    return {line: text for line, text in told.items() if not text.startswith(("noqa", "type:"))}


def _docstring(node: ast.stmt | None) -> str:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _validates(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id in _VALIDATORS


def _table_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model of a field that is a table of its own, and the placeholder of its name in a table of tables."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    for argument in typing.get_args(annotation):
        inner, _ = _table_of(argument)
        if inner is not None:
            return inner, "NAME" if typing.get_origin(annotation) is dict else ""
    return None, ""


def _described(annotation: Any, metadata: list[Any]) -> str:
    """Type and range, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _described(arguments[0], [*arguments[1:], *metadata])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_described(part, metadata) for part in arguments if part is not type(None))
    if origin is Literal:
        return ", ".join(f"`{toml_value(value)}`" for value in arguments)
    limits = _limits(metadata)
    if origin is tuple:
        of = "integers" if arguments[0] is int else _described(arguments[0], [])
        return f"list of {of}" + _counted(limits, "entries", " (", ")")
    if origin is dict:
        names, values = (_described(part, []) for part in arguments)
        return f"table of {names} = {values}" + _counted(limits, "entries", " (", ")")
    if annotation in (int, float):
        return ("integer" if annotation is int else "number") + _range(limits)
    if annotation is not str:
        return {bool: "`true`, `false`", Path: "path"}.get(annotation) or str(
            getattr(annotation, "__name__", annotation)
        )
    if "pattern" not in limits:
        return "text" + _counted(limits, "characters", " of ", "")
    digits = re.fullmatch(r"\^\[0-9a-f\]\{(\d+)\}\$", limits["pattern"])
    return f"{digits[1]} hex digits" if digits else f"text like `{limits['pattern']}`"


def _limits(metadata: list[Any]) -> dict[str, Any]:
    """Constraints by name, wherever they stand: in a FieldInfo or beside the type."""
    found: dict[str, Any] = {}
    for item in metadata:
        for part in (item, *getattr(item, "metadata", ())):
            for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
                if getattr(part, name, None) is not None:
                    found[name] = getattr(part, name)
    return found


def _range(limits: dict[str, Any]) -> str:
    low = (
        f"from {_number(limits['ge'])}"
        if "ge" in limits
        else f"above {_number(limits['gt'])}"
        if "gt" in limits
        else ""
    )
    high = (
        f"to {_number(limits['le'])}" if "le" in limits else f"below {_number(limits['lt'])}" if "lt" in limits else ""
    )
    return "".join(f" {part}" for part in (low, high) if part)


def _counted(limits: dict[str, Any], what: str, before: str, after: str) -> str:
    low, high = limits.get("min_length"), limits.get("max_length")
    if low is None and high is None:
        return ""
    if high is None:
        return ", not empty" if low == 1 else f"{before}at least {low} {what}{after}"
    return f"{before}{f'{low} to' if low is not None else 'at most'} {_number(high)} {what}{after}"


def _number(value: float) -> str:
    if isinstance(value, int):
        power = value.bit_length() - 1
        return f"2^{power}" if value > 2**40 and value == 2**power else f"{value:,}"
    return f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "*unset*"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`{}`" if not value else f"`{value}`"
    return f"`{toml_value(str(value) if isinstance(value, Path) else value)}`"
