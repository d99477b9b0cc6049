"""Where a data set's budget stands: what was executed, composed; what is reserved, charged and left."""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from privet.client.ledger.rows import plan_row, sum_committed
from privet.common.config import Site
from privet.common.privacy.events import EvaluateEvent, TrainEvent


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Where a data set's budget stands. `spent_epsilon` never admits anything: only reservations do."""

    epsilon: float  # the budget
    delta: float
    spent_epsilon: float  # PLD of the executed events at the budget's delta, had they been fixed in advance
    num_events: int  # lost ones too
    reserved_epsilon: float  # sums of approved plans' shares, and of charges
    reserved_delta: float
    left_epsilon: float
    left_delta: float
    charged_epsilon: float = 0.0  # for what a ledger that fell behind may have forgotten
    charged_delta: float = 0.0
    num_evaluations: int = 0  # of num_events
    num_lost: int = 0  # of num_events: closed by a charge


@dataclass(frozen=True, kw_only=True)
class Executed:
    """The events of one plan: `num_train` equal ones and `num_evaluations` equal ones."""

    train: TrainEvent
    num_train: int
    evaluation: EvaluateEvent | None
    num_evaluations: int
    train_fraction: float  # of the units; the others are the plan's validation units
    reading: str = ""  # how units were told; plans of one reading have every unit at one place


def summarize(db: sqlite3.Connection, site: Site) -> Summary:
    """In the caller's transaction. Composes all events: fractions of a second."""
    committed, budget = sum_committed(db, ""), site.budget
    charged = db.execute("SELECT epsilon, delta FROM charges").fetchall()
    charged_epsilon, charged_delta = (math.fsum(row[i] for row in charged) for i in (0, 1))
    counts: dict[str, dict[str, int]] = {}
    for digest, kind, count in db.execute("SELECT plan, kind, COUNT(*) FROM events GROUP BY plan, kind"):
        counts.setdefault(digest, {})[kind] = count
    (num_lost,) = db.execute("SELECT COUNT(*) FROM events WHERE state = 'lost'").fetchone()
    executed = _executed(db, counts)
    return Summary(
        epsilon=budget.epsilon,
        delta=budget.delta,
        spent_epsilon=charged_epsilon + spent(executed, budget.delta - charged_delta),
        num_events=sum(sum(kinds.values()) for kinds in counts.values()),
        reserved_epsilon=committed.epsilon,
        reserved_delta=committed.delta,
        left_epsilon=max(0.0, budget.epsilon - committed.epsilon),
        left_delta=max(0.0, budget.delta - committed.delta),
        charged_epsilon=charged_epsilon,
        charged_delta=charged_delta,
        num_evaluations=sum(kinds.get("evaluate", 0) for kinds in counts.values()),
        num_lost=num_lost,
    )


def spent(executed: Sequence[Executed], delta: float) -> float:
    """The largest epsilon at `delta` that any unit's events compose to; inf where delta is used up.

    A unit's place u in [0, 1) decides, for all plans alike, what it is used for: training where the plan's fraction is
    above u, validation elsewhere. Between two plans' fractions all units see the same events. Under plans that were
    approved with other keys of [data] (client/reading) it has another place: what either cost is added up.
    """
    readings = sorted({one.reading for one in executed})
    if len(readings) > 1 and any(one.train_fraction < 1 for one in executed):
        part = delta / len(readings)
        return math.fsum(spent([one for one in executed if one.reading == each], part) for each in readings)
    from privet.common.privacy.horizon import Horizon, horizon_epsilon

    horizons = [
        Horizon(
            train=one.train,
            rounds=one.num_train,
            evaluation=one.evaluation,
            num_evaluations=one.num_evaluations,
            train_fraction=one.train_fraction,
        )
        for one in executed
        if one.num_train or one.num_evaluations
    ]
    if not horizons:
        return 0.0
    return horizon_epsilon(horizons, delta) if delta > 0 else math.inf


def _executed(db: sqlite3.Connection, counts: dict[str, dict[str, int]]) -> list[Executed]:
    executed, rows = [], db.execute("SELECT * FROM plans WHERE state = 'approved' ORDER BY entry").fetchall()
    first = next((row["reading"] for row in rows if row["reading"]), "")  # for a plan whose own was not kept
    for row in rows:
        kinds = counts.get(row["digest"])
        admission = plan_row(row).admission
        if kinds is None or admission.event is None:
            continue
        fraction = json.loads(row["plan"])["training"].get("train_fraction", 1.0)  # read as text: any version's plan
        executed.append(
            Executed(
                train=admission.event,
                num_train=kinds.get("train", 0),
                evaluation=admission.evaluation,
                num_evaluations=kinds.get("evaluate", 0),
                train_fraction=0.0 if admission.evaluate_only else float(fraction),
                reading=row["reading"] or first,
            )
        )
    return executed
