"""The sites' lines of a report: all of them where they are few, else those that stand out; and what they state."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privet.common.privacy.statement import Statement
from privet.server.report.folder import Run
from privet.server.report.rows import Row

_MAX_LISTED = 60
_ENDS = 12  # of more sites
_MAX_GROUPS = 8
_MAX_NAMES = 8


@dataclass(frozen=True)
class SiteRow:
    """One site's line: what it states and how often it answered."""

    name: str
    statement: Statement | None
    answered: int
    missed: int
    reasons: str  # codes, each with its number of rounds
    spent: float | None  # epsilon so far


@dataclass(frozen=True)
class SiteTable:
    """Lines under a title; the title is empty where all sites are in it."""

    title: str
    rows: tuple[SiteRow, ...]


@dataclass(frozen=True)
class StatementGroup:
    """Sites that state just the same, figure by figure."""

    names: tuple[str, ...]  # the first ones
    num_sites: int
    words: tuple[str, ...]
    table: tuple[tuple[str, str], ...]


def site_tables(run: Run, spent: Mapping[str, float]) -> list[SiteTable]:
    """One table of all sites, or those that missed most and those with the largest epsilon."""
    rows = _rows(run.history, run.statements, spent)
    if len(rows) <= _MAX_LISTED:
        return [SiteTable("", tuple(rows))] if rows else []
    tables = []
    missed = sorted((row for row in rows if row.missed), key=lambda row: (-row.missed, row.name))
    if missed:
        tables.append(SiteTable("Missed most rounds", tuple(missed[:_ENDS])))
    stated = sorted((row for row in rows if row.statement is not None), key=lambda row: (-_epsilon(row), row.name))
    if stated:
        tables.append(SiteTable("Largest ε", tuple(stated[:_ENDS])))
    return tables


def answered_words(run: Run) -> str:
    """How often sites answered, in one sentence; empty where nothing was asked."""
    asked, answered = Counter[str](), Counter[str]()
    for row in run.history:
        asked.update(row.cohort)
        answered.update(row.answered)
    if not asked:
        return ""
    always = sum(answered[name] == number for name, number in asked.items())
    never = sum(answered[name] == 0 for name in asked)
    counts = sorted(asked.values())
    often = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    rounds = "round" if often == "1" else "rounds"
    words = f"{len(asked):,} sites were asked in {often} {rounds} each: {always:,} answered every time"
    return f"{words}, {never:,} never." if never else f"{words}."


def statement_groups(statements: Mapping[str, Statement], kind: str) -> tuple[list[StatementGroup], int]:
    """Those with the largest epsilon, at most _MAX_GROUPS, and how many sites are in no group that is shown.

    kind: of the plan's task.
    """
    names: dict[str, list[str]] = {}
    for name, statement in sorted(statements.items()):
        names.setdefault(statement.model_dump_json(), []).append(name)
    order = sorted(names.values(), key=lambda group: (-_loss(statements[group[0]]), group[0]))
    shown = [
        StatementGroup(
            tuple(group[:_MAX_NAMES]),
            len(group),
            tuple(statements[group[0]].in_words(kind)),
            tuple(statements[group[0]].table(kind)),
        )
        for group in order[:_MAX_GROUPS]
    ]
    return shown, sum(map(len, order[_MAX_GROUPS:]))


def _rows(history: Sequence[Row], statements: Mapping[str, Statement], spent: Mapping[str, float]) -> list[SiteRow]:
    answered = Counter[str]()
    reasons: dict[str, Counter[str]] = {}
    for row in history:
        answered.update(row.answered)
        for name in row.missing:
            reasons.setdefault(name, Counter())["no answer"] += 1
        for name, code in row.failed.items():
            reasons.setdefault(name, Counter())[code] += 1
    return [
        SiteRow(
            name,
            statements.get(name),
            answered[name],
            reasons[name].total() if name in reasons else 0,
            ", ".join(f"{code} ×{num}" for code, num in sorted(reasons.get(name, Counter()).items())),
            spent.get(name),
        )
        for name in sorted({*statements, *answered, *reasons})
    ]


def _epsilon(row: SiteRow) -> float:
    return _loss(row.statement) if row.statement is not None else 0.0


def _loss(statement: Statement) -> float:
    return float("inf") if statement.epsilon is None else statement.epsilon
