"""A run folder, read for its report: plan.toml, metrics.jsonl, the sites' statements, what was typed.

A run may still go on, or have been killed in the middle of a line: what is whole is read, the rest is told in `notes`.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from privet.common.config import Plan
from privet.common.config.files import describe
from privet.common.errors import ConfigError
from privet.common.live import Event
from privet.common.privacy.statement import Statement
from privet.server.judgement import kept_round
from privet.server.report.rows import Public, Row

ENVIRONMENT = "environment"  # the event that tells, at a run's end, what was typed and the libraries' versions
_PACKAGES = ("privet", "torch", "transformers", "peft", "opacus", "dp-accounting", "flwr", "numpy")
_NOT_A_RUN = "give a run folder: runs/NAME-TIME, as `privet server` and `privet simulate` write it."


@dataclass(frozen=True)
class Run:
    """All that a report tells of one run."""

    path: Path
    plan: Plan
    plan_text: str  # plan.toml as it stands
    history: tuple[Row, ...]
    initial: Public | None = None  # of the adapter that it started with
    statements: Mapping[str, Statement] = field(default_factory=dict)
    simulated: bool = False
    finished: bool = False
    reason: str = ""  # why nothing is guaranteed
    command: str = ""  # what was typed; empty where it was not recorded
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what could not be read

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.name

    @property
    def kept(self) -> Row | None:
        """The round whose adapter the run leaves behind."""
        judged = {"round", "aggregated", "public", "sites"}
        found = kept_round([row.model_dump(include=judged) for row in self.history], self.plan.evaluation)
        return None if found is None else next(row for row in self.history if row.round == found["round"])

    @property
    def seconds(self) -> float:
        """Of all rounds together."""
        return sum(row.seconds for row in self.history)

    @property
    def bytes_down(self) -> int:
        return sum(row.bytes_down for row in self.history)

    @property
    def bytes_up(self) -> int:
        return sum(row.bytes_up for row in self.history)

    @property
    def site_names(self) -> list[str]:
        """Everyone who stated something or was in a cohort."""
        return sorted({*self.statements, *(name for row in self.history for name in row.cohort)})


def environment_event(command: str) -> Event:
    """What the report of a run needs and no other event tells: what was typed, and the libraries' versions."""
    versions = {"Python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"event": ENVIRONMENT, "command": command, "versions": versions}


def read_run(path: Path) -> Run:
    """The run of a folder.

    Raises: ConfigError where it is none, or where its plan cannot be read.
    """
    if not path.is_dir():
        what = "this is a file." if path.exists() else "no such folder."
        raise ConfigError(what, where=str(path), mend=_NOT_A_RUN)
    plan_text = _text(path / "plan.toml")
    events, notes = _events(path / "metrics.jsonl")
    rows: dict[int, Row] = {}
    initial: Public | None = None
    unreadable = 0
    for event in events:
        try:
            if event["event"] == "round":
                row = Row.model_validate(event)
                rows[row.round] = row  # of a round that was run twice the second
            elif event["event"] == "resumed":
                rows = {number: row for number, row in rows.items() if number <= event["round"]}
            elif event["event"] == "initial" and initial is None:
                initial = Public.model_validate(event["public"])
        except (ValidationError, KeyError, TypeError):
            unreadable += 1
    if unreadable:
        notes.append(f"Left out: {_lines(unreadable)} of metrics.jsonl that cannot be understood.")
    statements, reason, fault = _statements(path)
    if fault:
        notes.append(fault)
    told = [event for event in events if event["event"] == ENVIRONMENT]
    command, versions = (told[-1].get("command"), told[-1].get("versions")) if told else (None, None)
    return Run(
        path=path,
        plan=_plan(plan_text, path / "plan.toml"),
        plan_text=plan_text,
        history=tuple(rows[number] for number in sorted(rows)),
        initial=initial,
        statements=dict(sorted(statements.items())),
        simulated=any(event.get("simulated") is True for event in events),
        finished=any(event["event"] in (ENVIRONMENT, "finished") for event in events),
        reason=reason,
        command=command if isinstance(command, str) else "",
        versions={str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        notes=tuple(notes),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no {path.name} in it.", where=str(path.parent), mend=_NOT_A_RUN) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error}).", where=str(path), mend="make it readable.") from None


def _plan(text: str, where: Path) -> Plan:
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}.", where=str(where), mend="restore the file.") from None
    except ValidationError as error:
        fault = describe(error, str(where))
    raise fault


def _events(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Those that are whole, and what is to be said of the others. A line without its end is one being written."""
    *lines, rest = _bytes(path).split(b"\n")
    events, damaged = [], 0
    for line in lines:
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or not isinstance(event["event"], str):
                raise ValueError
        except (ValueError, KeyError, RecursionError):
            damaged += 1
            continue
        events.append(event)
    notes = [f"Left out: {_lines(damaged)} of metrics.jsonl that cannot be read."] if damaged else []
    if rest:
        notes.append("The last line of metrics.jsonl is not complete: the run was stopped in it, or still goes on.")
    return events, notes


def _lines(number: int) -> str:
    return "1 line" if number == 1 else f"{number:,} lines"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"no {path.name} in it.", where=str(path.parent), mend=_NOT_A_RUN) from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error}).", where=str(path), mend="make it readable.") from None


def _statements(path: Path) -> tuple[dict[str, Statement], str, str]:
    """By site, why nothing is guaranteed, and a word on what could not be read."""
    found: dict[str, Statement] = {}
    reason, unreadable = "", 0
    for raw in _documents(path):
        try:
            reason = str(raw.get("reason") or "")
            sites = dict(raw.get("sites") or raw.get("statements") or {})
        except (TypeError, ValueError, AttributeError):
            unreadable += 1
            continue
        for name, statement in sites.items():
            try:
                found[str(name)] = Statement.from_json(statement)
            except ValidationError:
                unreadable += 1
        break
    whose = "The privacy statement of one site" if unreadable == 1 else f"The statements of {unreadable:,} sites"
    return found, reason, f"{whose} could not be read." if unreadable else ""


def _documents(path: Path) -> Iterator[Any]:
    """What holds statements, the best first: the finished run's privacy.json, else the newest checkpoints' notes."""
    with suppress(OSError, ValueError, RecursionError):
        yield json.loads((path / "adapter" / "privacy.json").read_text(encoding="utf-8"))
    for checkpoint in sorted((path / "checkpoints").glob("round-*.safetensors"), reverse=True):
        if not re.fullmatch(r"round-\d+", checkpoint.stem):
            continue
        try:
            with checkpoint.open("rb") as file:  # the header alone: no array is read
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            yield json.loads(header["__metadata__"]["privet"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, MemoryError):
            continue
