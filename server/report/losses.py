"""Epsilon by site over a run's rounds, by the project's accountant: composed from the events, never summed.

What a site had spent after a round is what its statement's events compose to: as many rounds as it was asked, and as
many evaluations. Asked and not answered counts too: the site may have trained, and reserved it before.

A composition takes some milliseconds, and sites may be thousands: few rounds are looked at, sites with equal events and
equal rounds share one composition, and of more sites than that a sample stands for all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from privet.common.privacy.horizon import horizon_epsilon
from privet.common.privacy.statement import Statement
from privet.server.report.rows import Row

_MOST = 64  # compositions for one run
_MOST_LINES = 12
_MOST_ROUNDS = 8
_LEAST_ROUNDS = 4
_SAMPLE = 24  # sites that stand for more of them
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

Trail = tuple[tuple[int, int], ...]  # rounds and evaluations that a site was asked for, one pair a round looked at


@dataclass(frozen=True)
class Group:
    """Sites whose epsilon was the same after every round."""

    names: tuple[str, ...]
    epsilons: tuple[float, ...]  # one a round of `Losses.rounds`; 0 before it was asked


@dataclass(frozen=True)
class Losses:
    """What the sites had spent, round by round.

    groups: every site, where they are few; else empty.
    quantiles: of the epsilons of the sites that were asked by then, one tuple of QUANTILES a round (zeros for none);
    over `num_sampled` of `num_sites`, evenly taken by the epsilon of their horizon, least and greatest among them.
    """

    rounds: tuple[int, ...]
    groups: tuple[Group, ...]
    quantiles: tuple[tuple[float, ...], ...]
    num_sites: int
    num_sampled: int
    unbounded: int = 0  # sites without a finite epsilon: they are in nothing above

    @property
    def spent(self) -> dict[str, float]:
        """By site after the last round, where all are known."""
        return {name: group.epsilons[-1] for group in self.groups for name in group.names}

    @property
    def largest(self) -> tuple[float, ...]:
        """The greatest of any site, one a round."""
        if self.groups:
            return tuple(max(epsilons) for epsilons in zip(*(g.epsilons for g in self.groups), strict=True))
        return tuple(parts[-1] for parts in self.quantiles)


def losses(history: Sequence[Row], statements: Mapping[str, Statement]) -> Losses | None:
    """None where no round was run, or no site with a finite epsilon stated anything."""
    bounded = {name: s for name, s in sorted(statements.items()) if s.epsilon is not None and _is_sound(s)}
    if not history or not bounded:
        return None
    keys = {name: _key(statement) for name, statement in bounded.items()}
    places = _places(len(history), _MOST_ROUNDS)
    trails = _asked(history, list(bounded), places)
    num_lines = len({(keys[name], trail) for name, trail in trails.items()})
    if len({(keys[name], counts) for name, trail in trails.items() for counts in trail}) > _MOST:
        chosen = list(bounded) if num_lines <= _MOST_LINES else _sample(bounded)
        places = _places(len(history), max(_LEAST_ROUNDS, _MOST // len(chosen)))
        trails = _asked(history, chosen, places)
    members: dict[tuple[str, Trail], list[str]] = {}
    for name, trail in trails.items():
        members.setdefault((keys[name], trail), []).append(name)
    known: dict[tuple[str, tuple[int, int]], float] = {}
    groups = []
    for (key, trail), names in members.items():
        for counts in trail:
            if (key, counts) not in known:
                known[key, counts] = _epsilon(bounded[names[0]], *counts)
        groups.append(Group(tuple(names), tuple(known[key, counts] for counts in trail)))
    ranked = [
        sorted(group.epsilons[i] for group in groups for _ in group.names if group.epsilons[i] > 0)
        for i in range(len(places))
    ]
    return Losses(
        rounds=tuple(history[i].round for i in places),
        groups=tuple(sorted(groups, key=lambda g: (-g.epsilons[-1], g.names))) if num_lines <= _MOST_LINES else (),
        quantiles=tuple(tuple(_quantile(values, share) for share in QUANTILES) for values in ranked),
        num_sites=len(bounded),
        num_sampled=len(trails),
        unbounded=len(statements) - len(bounded),
    )


def _is_sound(statement: Statement) -> bool:
    """Whether its figures can be those of an event."""
    try:
        return statement.horizon is not None
    except ValueError:
        return False


def _key(statement: Statement) -> str:
    """Of the events and delta that a statement is about."""
    about = {"noise_multiplier", "sample_rate", "local_steps", "delta", "train_fraction", "evaluation", "unit"}
    return statement.model_dump_json(include=about)


def _epsilon(statement: Statement, rounds: int, evaluations: int) -> float:
    """After so many rounds and evaluations; as stated where the whole horizon was run."""
    horizon = statement.horizon
    rounds, evaluations = min(rounds, horizon.rounds), min(evaluations, horizon.num_evaluations)
    if (rounds, evaluations) == (horizon.rounds, horizon.num_evaluations) and statement.epsilon is not None:
        return statement.epsilon
    return horizon_epsilon([replace(horizon, rounds=rounds, num_evaluations=evaluations)], statement.delta)


def _asked(history: Sequence[Row], names: Sequence[str], places: Sequence[int]) -> dict[str, Trail]:
    """By site, after the round at each place, how many rounds and evaluations it was asked for."""
    rounds, evaluations = Counter[str](), Counter[str]()
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    wanted = set(places)
    for place, row in enumerate(history):
        rounds.update(set(row.cohort))
        if row.evaluation is not None:
            evaluations.update({*row.evaluation.answered, *row.evaluation.missing, *row.evaluation.failed})
        if place in wanted:
            for name, counts in found.items():
                counts.append((rounds[name], evaluations[name]))
    return {name: tuple(counts) for name, counts in found.items()}


def _places(number: int, most: int) -> list[int]:
    """At most so many of the places 0 to number - 1, evenly spread, the first and the last among them."""
    if number <= most:
        return list(range(number))
    return sorted({round(i * (number - 1) / (most - 1)) for i in range(most)})


def _sample(statements: Mapping[str, Statement]) -> list[str]:
    ranked = sorted(statements, key=lambda name: (statements[name].epsilon or 0.0, name))
    return sorted({ranked[i] for i in _places(len(ranked), _SAMPLE)})


def _quantile(values: Sequence[float], share: float) -> float:
    """Never interpolated: a value that some site has; 0 for none."""
    if not values:
        return 0.0
    return values[round(share * (len(values) - 1))]
